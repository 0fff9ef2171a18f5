"""Scores as the original's own evaluator gives them, where they differ from what everybody calls them."""

from __future__ import annotations

import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.metrics.confusion import require_same_shape
from openseg.metrics.registry import register_metric

__all__ = ["OriginalPixelAccuracy"]


@register_metric("original_pixel_accuracy")
class OriginalPixelAccuracy:
    """Correct pixels over all pixels, including ignored ones: ``--metrics original_pixel_accuracy``."""

    def __init__(self, info: DatasetInfo) -> None:
        self.num_classes = info.num_classes
        self.right = self.all = 0

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one pair of maps of train IDs."""
        require_same_shape(prediction, target)
        self.right += int(np.count_nonzero((prediction == target) & (target < self.num_classes)))
        self.all += target.size

    def merge(self, other: OriginalPixelAccuracy) -> None:
        """Add what another one counted."""
        self.right, self.all = self.right + other.right, self.all + other.all

    def compute(self) -> dict[str, float]:
        """The one score."""
        return {"pixel accuracy, of the original": self.right / self.all if self.all else float("nan")}
