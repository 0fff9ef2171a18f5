"""Agreement of class boundaries: boundary F-score and Boundary IoU.

In both, a mask holds valid pixels only, in the prediction as in the ground truth (valid: the ground truth is a class).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.metrics.confusion import nan_mean, require_same_shape, to_bytes
from openseg.metrics.counting import NOTHING, joint_counts, nearest_counts
from openseg.metrics.exact import ExactSums
from openseg.metrics.registry import register_metric

__all__ = ["DISTANCES", "BoundaryCounts", "BoundaryIoU", "boundary_width", "near_boundary"]

DISTANCES = (1, 3, 5, 9, 12)
"""Distances in pixels at which the SegFix paper reports the boundary F-score."""


def _valid_only(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return both maps with ``NOTHING`` outside the classes, the prediction also where the ground truth is."""
    require_same_shape(prediction, truth)
    prediction, truth = (to_bytes(each, num_classes) for each in (prediction, truth))
    valid = truth < num_classes
    nothing = np.uint8(NOTHING)
    return np.where(valid & (prediction < num_classes), prediction, nothing), np.where(valid, truth, nothing)


def near_boundary(labels: np.ndarray, width: int, image_border: bool) -> np.ndarray:
    """Pixels with another value within ``width`` pixels, diagonal steps counting as one: ``bool[H, W]``.

    Args:
        labels: ``uint8`` or ``uint16[H, W]``.
        image_border: what lies outside of the image is another value.
    """
    if not labels.size:
        return np.zeros(labels.shape, bool)
    # A pixel's square window holds one value only where its smallest and largest are the same: all classes at once.
    square = cv2.getStructuringElement(cv2.MORPH_RECT, (2 * width + 1, 2 * width + 1))
    near = cv2.erode(labels, square) != cv2.dilate(labels, square)
    if image_border:
        near[:width] = near[-width:] = True
        near[:, :width] = near[:, -width:] = True
    return near


class BoundaryCounts:
    """Boundary F-score: matches and totals of boundary pixels, per distance and class.

    After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), as the SegFix paper
    reports it, with these choices: the boundary of a class is its mask minus the erosion by a 3x3 square (the image
    border is no boundary); a boundary pixel matches if the other boundary has a pixel within Euclidean distance d;
    matches and totals are summed over the dataset before precision, recall and F.

    Pixels that the ground truth ignores are nothing in both maps, as in the program that the SegFix paper used (after
    DAVIS'): so the boundary along an ignored area counts in both, and matches itself. ``along_ignored=False`` leaves
    out what touches an ignored pixel.

    ``counts: int64[D, K, 4]``: matched and all boundary pixels of the prediction, then of the ground truth.
    """

    def __init__(self, num_classes: int, distances: Sequence[int] = DISTANCES, along_ignored: bool = True) -> None:
        self.num_classes, self.along_ignored = num_classes, along_ignored
        self.distances = tuple(sorted(distances))
        self.counts = np.zeros((len(self.distances), num_classes, 4), np.int64)
        self._image_f = ExactSums((len(self.distances), num_classes))
        self._images = np.zeros(num_classes, np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one pair of train ID maps, integers ``[H, W]``; a ground truth outside ``0..K-1`` is not valid.

        Raises:
            DataError: the shapes differ.
        """
        maps = _valid_only(prediction, truth, self.num_classes)
        predicted, true = (np.where(near_boundary(each, 1, False), each, np.uint8(NOTHING)) for each in maps)
        if not self.along_ignored and truth.size:
            touches = cv2.dilate((maps[1] == NOTHING).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
            predicted[touches] = true[touches] = NOTHING
        added = np.zeros_like(self.counts)
        for column, (points, others) in ((0, (predicted, true)), (2, (true, predicted))):
            found = nearest_counts(points, others, self.distances, self.num_classes)
            added[..., column], added[..., column + 1] = found[:-1], found[-1]
        self.counts += added
        self._image_f.add(np.nan_to_num(_f_score(added)))
        self._images += added[0, :, 3] > 0

    def merge(self, other: BoundaryCounts) -> None:
        """Add the counts of another one."""
        self.counts += other.counts
        self._image_f.merge(other._image_f)
        self._images += other._images

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, see ``Metric.counts_dict``."""
        sums = self._image_f.counts()
        return {"counts": self.counts.tolist(), "image_f": sums, "images": self._images.tolist()}

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add what ``counts_dict`` gave."""
        self.counts += np.array(counts["counts"], np.int64).reshape(self.counts.shape)
        self._image_f.add_counts(counts["image_f"])
        self._images += np.array(counts["images"], np.int64)

    def compute(self) -> dict[str, float]:
        """The mean F-score by distance."""
        return {f"boundary F {distance} px": f for distance, f in self.mean_f.items()}

    @property
    def class_f(self) -> np.ndarray:
        """F-score ``float64[D, K]``; NaN for a class without a boundary in the ground truth."""
        return _f_score(self.counts)

    @property
    def image_class_f(self) -> np.ndarray:
        """Averaged over images: the mean F-score of the images whose ground truth has a boundary of the class.

        ``float64[D, K]``; NaN for a class without a boundary in the ground truth.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._image_f.values / np.where(self._images > 0, self._images, np.nan)

    @property
    def mean_f(self) -> dict[int, float]:
        """Mean of ``class_f`` over the classes of the ground truth, by distance; NaN when there is none."""
        return {d: nan_mean(row) for d, row in zip(self.distances, self.class_f, strict=True)}

    @property
    def image_mean_f(self) -> dict[int, float]:
        """Mean of ``image_class_f`` over the classes of the ground truth, by distance; NaN when there is none."""
        return {d: nan_mean(row) for d, row in zip(self.distances, self.image_class_f, strict=True)}


@register_metric("boundary_f_inside")
class InnerBoundaryF:
    """Boundary F-score without boundaries along ignored areas, by name: ``--metrics boundary_f_inside``."""

    def __init__(self, info: DatasetInfo) -> None:
        self.counts = BoundaryCounts(info.num_classes, along_ignored=False)

    def update(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Add one pair of maps of train IDs."""
        self.counts.update(prediction, target)

    def merge(self, other: InnerBoundaryF) -> None:
        """Add what another one counted."""
        self.counts.merge(other.counts)

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, see ``Metric.counts_dict``."""
        return self.counts.counts_dict()

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add what ``counts_dict`` gave."""
        self.counts.add_counts(counts)

    def compute(self) -> dict[str, float]:
        """The mean over classes at each distance."""
        return {f"boundary F {d} px, inside": value for d, value in self.counts.mean_f.items()}


def _f_score(counts: np.ndarray) -> np.ndarray:
    matched_prediction, predicted, matched_truth, true = np.moveaxis(counts, -1, 0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(predicted > 0, matched_prediction / predicted, 0.0)
        recall = matched_truth / true
        f = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
    return np.where(true > 0, f, np.nan)


def boundary_width(size: tuple[int, int], ratio: float) -> int:
    """Pixels of the boundary region in Boundary IoU: ``ratio`` of the image diagonal, at least 1."""
    return max(round(ratio * float(np.hypot(*size))), 1)


class BoundaryIoU:
    """Boundary IoU of classes (Cheng, Girshick, Dollar, Berg, Kirillov: "Boundary IoU", CVPR 2021).

    The intersection over union of what is left of two masks within ``width`` pixels inside their boundaries, the image
    border being one. As in mIoU, intersections and unions are summed over the dataset.

    ``counts: int64[K, 3]``: intersection, region of the prediction, region of the ground truth.
    """

    def __init__(self, num_classes: int, ratio: float = 0.02) -> None:
        """``ratio``: width over image diagonal, 0.02 in the paper; its authors take 0.005 for Cityscapes."""
        self.num_classes = num_classes
        self.ratio = ratio
        self.counts = np.zeros((num_classes, 3), np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one pair of train ID maps, integers ``[H, W]``; a ground truth outside ``0..K-1`` is not valid.

        Raises:
            DataError: the shapes differ.
        """
        maps = _valid_only(prediction, truth, self.num_classes)
        width = boundary_width(truth.shape, self.ratio)
        predicted, true = (np.where(near_boundary(each, width, True), each, np.uint8(NOTHING)) for each in maps)
        joint = joint_counts(predicted, true)
        counted = np.zeros((256, 3), np.int64)
        counted[joint.prediction, 1], counted[joint.truth, 2] = joint.counts.sum(axis=0), joint.counts.sum(axis=1)
        both, rows, columns = np.intersect1d(joint.truth, joint.prediction, return_indices=True)
        counted[both, 0] = joint.counts[rows, columns]
        self.counts += counted[: self.num_classes]

    def merge(self, other: BoundaryIoU) -> None:
        """Add the counts of another one."""
        self.counts += other.counts

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, see ``Metric.counts_dict``."""
        return {"counts": self.counts.tolist()}

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add what ``counts_dict`` gave."""
        self.counts += np.array(counts["counts"], np.int64)

    def compute(self) -> dict[str, float]:
        """The mean Boundary IoU."""
        return {"boundary IoU": self.mean_iou}

    @property
    def class_iou(self) -> np.ndarray:
        """``float64[K]``; NaN for a class that neither ground truth nor prediction holds."""
        intersection, predicted, true = self.counts.T.astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            return intersection / (predicted + true - intersection)

    @property
    def mean_iou(self) -> float:
        """Mean of the class values that are not NaN; NaN when nothing was counted."""
        return nan_mean(self.class_iou)
