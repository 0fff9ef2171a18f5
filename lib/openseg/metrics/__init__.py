"""Scores of label maps: arrays in, numbers out; streaming, and mergeable by addition. Needs no torch."""

from openseg.metrics.boundary import DISTANCES, BoundaryCounts, BoundaryIoU
from openseg.metrics.cityscapes import CityscapesCounts
from openseg.metrics.confusion import ConfusionMatrix
from openseg.metrics.counting import Joint, joint_counts
from openseg.metrics.instances import InstanceScores, PredictedInstance
from openseg.metrics.scores import LabelScores

__all__ = [
    "DISTANCES",
    "BoundaryCounts",
    "BoundaryIoU",
    "CityscapesCounts",
    "ConfusionMatrix",
    "InstanceScores",
    "Joint",
    "LabelScores",
    "PredictedInstance",
    "joint_counts",
]
