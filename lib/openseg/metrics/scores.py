"""The scores that a user compares: overlap and boundary of a set of label maps, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openseg.metrics.boundary import BoundaryCounts
from openseg.metrics.confusion import ConfusionMatrix

__all__ = ["LabelScores"]


class LabelScores:
    """Confusion and boundary counts of one set of predictions."""

    def __init__(self, classes: Sequence[str], distances: Sequence[int] = (1, 3, 5)) -> None:
        self.classes = tuple(classes)
        self.confusion = ConfusionMatrix(len(self.classes))
        self.boundary = BoundaryCounts(len(self.classes), distances)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one pair of training-id maps ``uint8[H, W]``."""
        self.confusion.update(prediction, truth)
        if self.boundary.distances:
            self.boundary.update(prediction, truth)

    def __iadd__(self, other: LabelScores) -> LabelScores:
        self.confusion += other.confusion
        self.boundary += other.boundary
        return self

    def summary(self) -> dict[str, float]:
        """The headline numbers by name, as shares of 1."""
        confusion = self.confusion
        return {
            "mIoU": confusion.mean_iou,
            "pixel accuracy": confusion.pixel_accuracy,
            "mean accuracy": confusion.mean_accuracy,
            **{f"boundary F {distance} px": f for distance, f in self.boundary.mean_f.items()},
        }

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""
        return {
            "summary": self.summary(),
            "class_iou": dict(zip(self.classes, self.confusion.class_iou.tolist(), strict=True)),
            "class_boundary_f": {
                str(distance): dict(zip(self.classes, row.tolist(), strict=True))
                for distance, row in zip(self.boundary.distances, self.boundary.class_f, strict=True)
            },
            "confusion": self.confusion.counts.tolist(),
        }
