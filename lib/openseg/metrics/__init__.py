"""Scores of label maps: arrays in, numbers out; streaming, and mergeable by addition. Needs no torch."""

from openseg.metrics.boundary import BoundaryCounts
from openseg.metrics.confusion import ConfusionMatrix
from openseg.metrics.scores import LabelScores

__all__ = ["BoundaryCounts", "ConfusionMatrix", "LabelScores"]
