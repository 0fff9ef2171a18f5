"""Confusion counts and the scores derived from them (mIoU as in PASCAL VOC: intersection over union per class)."""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg.errors import DataError
from openseg.metrics.counting import JointCounts, joint_counts

__all__ = ["ConfusionMatrix", "nan_mean", "require_same_shape", "to_bytes"]


class ConfusionMatrix:
    """Pixel counts by (ground truth, prediction), where the ground truth is a class.

    ``counts: int64[K, K + 1]``, with ground truth in rows. The last column counts predictions outside the
    classes, which are misses.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts = np.zeros((num_classes, num_classes + 1), np.int64)

    def update(self, prediction: np.ndarray, target: np.ndarray, joint: JointCounts | None = None) -> None:
        """Add one pair of maps of train IDs, integers ``[H, W]``; a target outside ``0..K-1`` is not counted.

        ``joint``: the joint counts of the two maps, if they are known already.

        Raises:
            DataError: the shapes differ.
        """
        require_same_shape(prediction, target)
        if joint is None:
            joint = joint_counts(*(to_bytes(each, self.num_classes) for each in (prediction, target)))
        self.add(joint)

    def add(self, joint: JointCounts) -> None:
        """Add the joint counts of a pair of maps."""
        valid = joint.truth < self.num_classes
        columns = np.minimum(joint.prediction, self.num_classes)
        np.add.at(self.counts, (joint.truth[valid, None], columns), joint.counts[valid])

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another one."""
        self.counts += other.counts

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, see ``Metric.counts_dict``."""
        return {"counts": self.counts.tolist()}

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add what ``counts_dict`` gave."""
        self.counts += np.array(counts["counts"], np.int64)

    def compute(self) -> dict[str, float]:
        """The mean scores by name."""
        return {
            "mIoU": self.mean_iou,
            "pixel accuracy": self.pixel_accuracy,
            "mean accuracy": self.mean_accuracy,
            "frequency-weighted IoU": self.frequency_weighted_iou,
        }

    @property
    def _diagonal(self) -> np.ndarray:
        return np.diagonal(self.counts).astype(np.float64)

    @property
    def class_iou(self) -> np.ndarray:
        """``float64[K]``; NaN for a class that neither ground truth nor prediction holds."""
        union = self.counts.sum(axis=1) + self.counts[:, :-1].sum(axis=0) - self._diagonal
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._diagonal / union

    @property
    def class_accuracy(self) -> np.ndarray:
        """Fraction of correct pixels of each class, ``float64[K]``; NaN for a class absent from the ground truth."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._diagonal / self.counts.sum(axis=1)

    @property
    def mean_iou(self) -> float:
        """Mean of the class IoUs that are not NaN; NaN when nothing was counted."""
        return nan_mean(self.class_iou)

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of correct pixels; NaN when nothing was counted."""
        total = self.counts.sum()
        return float(self._diagonal.sum() / total) if total else float("nan")

    @property
    def mean_accuracy(self) -> float:
        """Mean of the class accuracies that are not NaN."""
        return nan_mean(self.class_accuracy)

    @property
    def frequency_weighted_iou(self) -> float:
        """Class IoUs weighted by the class frequencies in the ground truth."""
        share = self.counts.sum(axis=1)
        total = share.sum()
        return float(np.nansum(self.class_iou * share) / total) if total else float("nan")


def require_same_shape(prediction: np.ndarray, truth: np.ndarray) -> None:
    """Raises DataError where two maps differ in size, or are no maps of integers."""
    for each in (prediction, truth):
        if not isinstance(each, np.ndarray) or each.ndim != 2 or each.dtype.kind not in "iub":
            kind = f"{each.dtype}{list(each.shape)}" if isinstance(each, np.ndarray) else type(each).__name__
            raise DataError(f"label maps are integers of height x width, this is {kind}")
    if prediction.shape != truth.shape:
        raise DataError(f"prediction {prediction.shape} and ground truth {truth.shape} differ in size")


def to_bytes(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Convert train IDs of any integer type to ``uint8``; values outside ``0..K-1`` stay outside."""
    if labels.dtype == np.uint8:
        return labels
    return np.where((labels >= 0) & (labels < num_classes), labels, num_classes).astype(np.uint8)


def nan_mean(values: np.ndarray) -> float:
    """Mean of the values that are not NaN; NaN when there is none."""
    return float(np.nanmean(values)) if not np.isnan(values).all() else float("nan")
