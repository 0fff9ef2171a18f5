"""The scores that a user compares: overlap and boundary of a set of label maps, as a table and as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from openseg.catalog import Catalog
from openseg.metrics.boundary import DISTANCES, BoundaryCounts, BoundaryIoU
from openseg.metrics.cityscapes import CityscapesCounts
from openseg.metrics.confusion import ConfusionMatrix

__all__ = ["LabelScores"]


class LabelScores:
    """Confusion and boundary counts of one set of predictions; for Cityscapes also what its benchmark reports."""

    def __init__(self, catalog: Catalog, distances: Sequence[int] = DISTANCES) -> None:
        """``distances`` of the boundary F-score in pixels; empty leaves boundary scores out, which are slower."""
        self.classes = catalog.classes
        self.confusion = ConfusionMatrix(len(self.classes))
        self.boundary = BoundaryCounts(len(self.classes), distances) if distances else None
        self.boundary_iou = BoundaryIoU(len(self.classes), catalog.boundary_ratio) if distances else None
        self.official = CityscapesCounts(catalog, self.confusion) if CityscapesCounts.fits(catalog) else None

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Add one pair of training-id maps ``uint8[H, W]``.

        Raises:
            DataError: the shapes differ.
        """
        self.confusion.update(prediction, truth)
        self.update_boundaries(prediction, truth)

    def update_boundaries(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """The part of ``update`` that counts boundaries, where they are wanted."""
        if self.boundary is not None and self.boundary_iou is not None:
            self.boundary.update(prediction, truth)
            self.boundary_iou.update(prediction, truth)

    def __iadd__(self, other: LabelScores) -> LabelScores:
        if self._measures != other._measures:
            raise ValueError(f"scores of {self._measures} and of {other._measures} do not add up")
        self.confusion += other.confusion
        for mine, its in ((self.boundary, other.boundary), (self.boundary_iou, other.boundary_iou)):
            if mine is not None and its is not None:
                mine += its
        if self.official is not None and other.official is not None:
            self.official += other.official
        return self

    @property
    def _measures(self) -> tuple:
        boundary = () if self.boundary is None else self.boundary.distances
        return len(self.classes), boundary, self.boundary_iou and self.boundary_iou.ratio

    def summary(self) -> dict[str, float]:
        """The headline numbers by name, as shares of 1."""
        confusion = self.confusion
        values = {
            "mIoU": confusion.mean_iou,
            "pixel accuracy": confusion.pixel_accuracy,
            "mean accuracy": confusion.mean_accuracy,
            "frequency-weighted IoU": confusion.frequency_weighted_iou,
        }
        if self.official is not None:
            values |= self.official.summary()
        if self.boundary is not None and self.boundary_iou is not None:
            values |= {f"boundary F {distance} px": f for distance, f in self.boundary.mean_f.items()}
            values["boundary IoU"] = self.boundary_iou.mean_iou
        return values

    def image_summary(self) -> dict[str, float]:
        """Boundary F-scores averaged over images instead of summed over the data set."""
        if self.boundary is None:
            return {}
        return {f"boundary F {distance} px, mean of images": f for distance, f in self.boundary.image_mean_f.items()}

    @property
    def by_class(self) -> dict[str, float]:
        """IoU by class."""
        return dict(zip(self.classes, self.confusion.class_iou.tolist(), strict=True))

    @property
    def absent(self) -> list[str]:
        """Classes that neither truth nor prediction holds; they are in no mean."""
        return [name for name, iou in zip(self.classes, self.confusion.class_iou, strict=True) if np.isnan(iou)]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""

        def by_class(values: np.ndarray) -> dict[str, float]:
            return dict(zip(self.classes, values.tolist(), strict=True))

        result = {
            "summary": self.summary() | self.image_summary(),
            "absent": self.absent,
            "class_iou": self.by_class,
            "class_accuracy": by_class(self.confusion.class_accuracy),
        }
        if self.official is not None:
            result |= self.official.as_dict()
        if self.boundary is not None and self.boundary_iou is not None:
            rows = zip(self.boundary.distances, self.boundary.class_f, strict=True)
            result["class_boundary_f"] = {str(distance): by_class(row) for distance, row in rows}
            result["class_boundary_iou"] = by_class(self.boundary_iou.class_iou)
        return result | {"confusion": self.confusion.counts.tolist()}
