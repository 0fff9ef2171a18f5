"""Scores of label maps: arrays in, numbers out; streaming, and mergeable by addition. Needs no torch."""

from openseg.metrics.base import Metric
from openseg.metrics.boundary import DISTANCES, BoundaryCounts, BoundaryIoU
from openseg.metrics.cityscapes import CityscapesCounts
from openseg.metrics.confusion import ConfusionMatrix
from openseg.metrics.counting import JointCounts, joint_counts
from openseg.metrics.instances import InstanceScores, PredictedInstance
from openseg.metrics.original import OriginalPixelAccuracy
from openseg.metrics.registry import METRICS, register_metric
from openseg.metrics.scores import LabelScores

__all__ = [
    "DISTANCES",
    "METRICS",
    "BoundaryCounts",
    "BoundaryIoU",
    "CityscapesCounts",
    "ConfusionMatrix",
    "InstanceScores",
    "JointCounts",
    "LabelScores",
    "Metric",
    "OriginalPixelAccuracy",
    "PredictedInstance",
    "joint_counts",
    "register_metric",
]
