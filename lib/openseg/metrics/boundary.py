"""Boundary F-score: how well the outlines of the classes agree, within a distance in pixels.

After Csurka et al., "What is a good evaluation measure for semantic segmentation?" (BMVC 2013), as the SegFix paper
reports it, with these choices: a mask holds valid pixels only, in the prediction as in the truth (valid: the truth is a
class); the boundary of a class is its mask minus the erosion by a 3x3 square (the image border is no boundary); a
boundary pixel matches if the other outline has a pixel within Euclidean distance d; matches and totals are summed over
the data set before precision, recall and F.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from openseg.errors import DataError

__all__ = ["BoundaryCounts"]

_SQUARE = np.ones((3, 3), np.uint8)


def _disk(radius: int) -> np.ndarray:
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets[None, :] ** 2 <= radius**2).astype(np.uint8)


class BoundaryCounts:
    """Matches and totals of boundary pixels, per distance and class.

    ``counts: int64[D, K, 4]``: matched and all boundary pixels of the prediction, matched and all of the truth.
    """

    def __init__(self, num_classes: int, distances: Sequence[int] = (1, 3, 5)) -> None:
        self.num_classes = num_classes
        self.distances = tuple(distances)
        self._disks = [_disk(distance) for distance in self.distances]
        self.counts = np.zeros((len(self.distances), num_classes, 4), np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one pair of training-id maps ``uint8[H, W]``; a truth of ``K`` or more is not valid.

        Raises:
            DataError: the shapes differ.
        """
        if prediction.shape != truth.shape:
            raise DataError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
        valid = truth < self.num_classes
        present = np.union1d(np.unique(truth), np.unique(prediction))
        for label in present[present < self.num_classes]:
            predicted = _outline((prediction == label) & valid)
            true = _outline(truth == label)
            totals = np.count_nonzero(predicted), np.count_nonzero(true)
            for row, disk in enumerate(self._disks):
                matched_prediction = np.count_nonzero(predicted & cv2.dilate(true, disk))
                matched_truth = np.count_nonzero(true & cv2.dilate(predicted, disk))
                self.counts[row, label] += (matched_prediction, totals[0], matched_truth, totals[1])

    def __iadd__(self, other: BoundaryCounts) -> BoundaryCounts:
        self.counts += other.counts
        return self

    @property
    def class_f(self) -> np.ndarray:
        """F-score ``float64[D, K]``; NaN for a class that the truth has no outline of."""
        matched_prediction, predicted, matched_truth, true = np.moveaxis(self.counts, -1, 0).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            precision = np.where(predicted > 0, matched_prediction / predicted, 0.0)
            recall = matched_truth / true
            f = np.where(precision + recall > 0, 2 * precision * recall / (precision + recall), 0.0)
        return np.where(true > 0, f, np.nan)

    @property
    def mean_f(self) -> dict[int, float]:
        """Mean F-score over the classes of the truth, by distance; NaN when there is none."""
        rows = zip(self.distances, self.class_f, strict=True)
        return {d: float(np.nanmean(row)) if not np.isnan(row).all() else float("nan") for d, row in rows}


def _outline(mask: np.ndarray) -> np.ndarray:
    """Boundary pixels of a boolean mask, ``uint8[H, W]`` of 0 and 1."""
    mask = mask.astype(np.uint8)
    inner = cv2.erode(mask, _SQUARE, borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return mask - inner
