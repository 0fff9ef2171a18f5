"""Overlap and boundary scores of a set of label maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.errors import ConfigError, DataError
from openseg.metrics.base import Metric
from openseg.metrics.boundary import DISTANCES, BoundaryCounts, BoundaryIoU
from openseg.metrics.cityscapes import CityscapesCounts
from openseg.metrics.confusion import ConfusionMatrix
from openseg.metrics.counting import JointCounts
from openseg.metrics.registry import METRICS

__all__ = ["LabelScores"]


class LabelScores:
    """All metrics of one set of predictions: confusion matrix, boundaries, Cityscapes' metrics, registered metrics.

    Every command and validation during training use ``update``.
    """

    def __init__(self, info: DatasetInfo, distances: Sequence[int] = DISTANCES, metrics: Sequence[str] = ()) -> None:
        """
        Args:
            distances: of the boundary F-score in pixels; empty leaves boundary scores out, which are slower.
            metrics: registered metrics to compute in addition.

        Raises:
            ConfigError: an unknown metric.
        """
        self.classes = info.classes
        self.confusion = ConfusionMatrix(len(self.classes))
        self.official = CityscapesCounts(info, self.confusion) if CityscapesCounts.fits(info) else None
        self.boundary = BoundaryCounts(len(self.classes), distances) if distances else None
        self.boundary_iou = BoundaryIoU(len(self.classes), info.boundary_ratio) if distances else None
        self.registered: dict[str, Metric] = {name: METRICS.look_up(name, "metrics")(info) for name in metrics}

    @property
    def _metrics(self) -> list[Any]:
        """In the order in which their scores are shown."""
        built_in = (self.confusion, self.official, self.boundary, self.boundary_iou)
        return [*(each for each in built_in if each is not None), *self.registered.values()]

    @property
    def reads_pixels(self) -> bool:
        """Whether a metric needs the maps; else ``confusion.add`` of their joint counts is the same as ``update``."""
        return self.boundary is not None or bool(self.registered)

    def update(
        self,
        prediction: np.ndarray,
        target: np.ndarray,
        *,
        joint: JointCounts | None = None,
        instances: np.ndarray | None = None,
        ids: np.ndarray | None = None,
    ) -> None:
        """Add one pair of maps of train IDs ``uint8[H, W]``.

        Args:
            joint: the joint counts of the two maps, if they are known already.
            instances: the target's instance map ``uint16[H, W]``, for the iIoU of Cityscapes.
            ids: with ``instances``: the predicted label IDs, ``uint8[H, W]``.

        Raises:
            DataError: the shapes differ.
        """
        for metric in self._metrics:
            if metric is self.confusion:
                self.confusion.update(prediction, target, joint)
            elif metric is self.official:
                if instances is not None and ids is not None:
                    self.official.update(ids, prediction, target, instances)
            else:
                metric.update(prediction, target)

    def merge(self, other: LabelScores) -> None:
        """Add what another one counted.

        Raises:
            ValueError: it has other metrics.
        """
        if self._measures != other._measures:
            raise ValueError(f"scores of {self._measures} and of {other._measures} do not add up")
        for mine, its in zip(self._metrics, other._metrics, strict=True):
            mine.merge(its)

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, as plain values for JSON; ``add_counts`` of the same metrics takes it.

        Raises:
            ConfigError: a registered metric has no ``counts_dict`` and ``add_counts``.
        """
        counts = {}
        for name, metric in self._named.items():
            if not hasattr(metric, "counts_dict") or not hasattr(metric, "add_counts"):
                raise ConfigError(
                    f"{name} has no counts_dict() and add_counts(), which scores in several parts need "
                    "(docs/extending.md)"
                )
            counts[name] = metric.counts_dict()
        return counts

    def add_counts(self, counts: Mapping[str, Any]) -> None:
        """Add what ``counts_dict`` gave.

        Raises:
            DataError: it is of other metrics, or damaged.
        """
        named = self._named
        if counts.keys() != named.keys():
            raise DataError(f"counts of {', '.join(counts)} and of {', '.join(named)} do not add up")
        try:
            for name, metric in named.items():
                metric.add_counts(counts[name])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"damaged or of other classes or distances ({error})") from None

    @property
    def _named(self) -> dict[str, Any]:
        built_in: dict[str, Any] = {"confusion": self.confusion, "cityscapes": self.official}
        built_in |= {"boundary": self.boundary, "boundary_iou": self.boundary_iou}
        named = {name: each for name, each in built_in.items() if each is not None}
        return named | {f"metric {name}": each for name, each in self.registered.items()}

    @property
    def _measures(self) -> tuple[Any, ...]:
        boundary = () if self.boundary is None else self.boundary.distances
        return len(self.classes), boundary, self.boundary_iou and self.boundary_iou.ratio, *self.registered

    def compute(self) -> dict[str, float]:
        """The mean scores by name, as shares of 1.

        Raises:
            ConfigError: a registered metric gives a score of a name that another one gives.
        """
        values: dict[str, float] = {}
        for metric in self._metrics:
            found = {str(name): float(value) for name, value in metric.compute().items()}
            taken = values.keys() & found.keys()
            if taken:
                raise ConfigError(f"two metrics give a score named '{min(taken)}'; rename that of your own")
            values |= found
        return values

    def image_means(self) -> dict[str, float]:
        """Boundary F-scores averaged over images instead of summed over the dataset."""
        if self.boundary is None:
            return {}
        return {f"boundary F {distance} px, mean of images": f for distance, f in self.boundary.image_mean_f.items()}

    @property
    def by_class(self) -> dict[str, float]:
        """IoU by class."""
        return dict(zip(self.classes, self.confusion.class_iou.tolist(), strict=True))

    @property
    def absent(self) -> list[str]:
        """Classes that neither target nor prediction holds; they are in no mean."""
        return [name for name, iou in zip(self.classes, self.confusion.class_iou, strict=True) if np.isnan(iou)]

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values, for JSON."""

        def by_class(values: np.ndarray) -> dict[str, float]:
            return dict(zip(self.classes, values.tolist(), strict=True))

        result: dict[str, Any] = {
            "summary": self.compute() | self.image_means(),
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
