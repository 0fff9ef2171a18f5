"""Average precision of instance masks by the rules of the Cityscapes benchmark, by mask and by Boundary IoU.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016: overlaps 0.50 to 0.95, each
prediction and instance at most once a hit, the better scored of two hits kept; what lies on ignored areas, groups or
instances below 100 pixels is no false positive. Boundary AP (Cheng et al., "Boundary IoU", CVPR 2021) takes the smaller
of mask and boundary IoU instead, and only meets where both masks and both boundaries do, as its authors' program.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import cv2
import numpy as np

from openseg.metrics.boundary import boundary_width, near_boundary
from openseg.metrics.confusion import nan_mean, require_same_shape

__all__ = ["OVERLAPS", "InstanceScores", "PredictedInstance"]

OVERLAPS = np.arange(0.5, 1.0, 0.05)
_MIN_PIXELS = 100
_FIRST_INSTANCE = 1000
KINDS = ("mask", "boundary")


class PredictedInstance(NamedTuple):
    """One mask ``bool[H, W]``, the file id of its class, and how sure the model is of it."""

    mask: np.ndarray
    file_id: int
    confidence: float


class _Truth(NamedTuple):
    """An instance, or with ``group`` an area of several, that predictions of its class met."""

    pixels: int
    boundary: int
    group: bool


class _Meeting(NamedTuple):
    truth: int
    overlap: float
    shared: int


@dataclass
class _Curve:
    """Hits and false positives by confidence; ``missed`` instances have none."""

    confidence: array = field(default_factory=lambda: array("d"))
    hit: array = field(default_factory=lambda: array("b"))
    missed: int = 0

    def add(self, confidence: float, hit: bool) -> None:
        self.confidence.append(confidence)
        self.hit.append(hit)

    def __iadd__(self, other: _Curve) -> _Curve:
        self.confidence.extend(other.confidence)
        self.hit.extend(other.hit)
        self.missed += other.missed
        return self

    def average_precision(self) -> float:
        """Area under precision over recall, each step as wide as half the way to both its neighbours."""
        order = np.argsort(self.confidence, kind="stable")
        confidence, hit = np.asarray(self.confidence)[order], np.asarray(self.hit)[order]
        if not hit.any():
            return 0.0
        _, first = np.unique(confidence, return_index=True)
        hits_below = np.concatenate([[0], np.cumsum(hit)])[first]
        hits = hit.sum() - hits_below
        precision = np.append(hits / (len(hit) - first), 1.0)
        recall = np.append(hits / (hit.sum() + self.missed), 0.0)
        around = np.concatenate([recall[:1], recall, [0.0]])
        return float(precision @ ((around[:-2] - around[2:]) / 2))


class InstanceScores:
    """AP and AP50 of a set of images, by class and kind of overlap (``mask``, ``boundary``)."""

    def __init__(self, classes: dict[int, str], void_ids: Sequence[int], ratio: float = 0.005) -> None:
        """
        Args:
            classes: names of the scored classes by file id.
            void_ids: values of instance maps on which predictions count for nothing.
            ratio: width of boundaries over image diagonal.
        """
        self.classes = dict(classes)
        self.void_ids = np.array(sorted(void_ids), np.int64)
        self.ratio = ratio
        self._has_truth = dict.fromkeys(classes, False)
        self._curves = {
            (kind, file_id, level): _Curve() for kind in KINDS for file_id in classes for level in range(len(OVERLAPS))
        }

    def update(self, predictions: Sequence[PredictedInstance], truth: np.ndarray) -> None:
        """Add one image.

        Args:
            truth: ``uint16[H, W]``: ``id * 1000 + number`` of single objects, an id alone elsewhere.

        Raises:
            DataError: a mask is of another size.
        """
        width = boundary_width(truth.shape, self.ratio)
        near = near_boundary(truth, width, image_border=True)
        pixels, edges = _count(truth), _count(truth[near])
        void = np.isin(truth, self.void_ids)
        for file_id in self.classes:
            truths = {
                value: _Truth(count, edges.get(value, 0), value < _FIRST_INSTANCE)
                for value, count in pixels.items()
                if (value if value < _FIRST_INSTANCE else value // 1000) == file_id
            }
            mine = [each for each in predictions if each.file_id == file_id]
            for each in mine:
                require_same_shape(each.mask, truth)
            mine = [each for each in mine if each.mask.any()]
            scored = [value for value, each in truths.items() if not each.group and each.pixels >= _MIN_PIXELS]
            self._has_truth[file_id] |= bool(scored)
            meetings = [_meet(each.mask, truth, near, truths, width) for each in mine]
            ignored = [np.count_nonzero(void & each.mask) for each in mine]
            for kind in KINDS:
                self._match(kind, file_id, mine, truths, scored, [each[kind] for each in meetings], ignored)

    def _match(
        self,
        kind: str,
        file_id: int,
        predictions: list[PredictedInstance],
        truths: dict[int, _Truth],
        scored: list[int],
        meetings: list[list[_Meeting]],
        ignored: list[int],
    ) -> None:
        for level, overlap in enumerate(OVERLAPS):
            curve = self._curves[kind, file_id, level]
            hits = [[each.truth for each in met if each.overlap > overlap] for met in meetings]
            for value in scored:
                sure = [each.confidence for each, hit in zip(predictions, hits, strict=True) if value in hit]
                if not sure:
                    curve.missed += 1
                    continue
                sure.sort()
                curve.add(sure.pop(), True)
                for confidence in sure:
                    curve.add(confidence, False)
            for each, hit, met, beside in zip(predictions, hits, meetings, ignored, strict=True):
                if not hit:
                    for meeting in met:
                        small = truths[meeting.truth].pixels < _MIN_PIXELS
                        beside += meeting.shared * (truths[meeting.truth].group + small)  # both: twice, as officially
                    if beside / np.count_nonzero(each.mask) <= overlap:
                        curve.add(each.confidence, False)

    def __iadd__(self, other: InstanceScores) -> InstanceScores:
        for key, curve in other._curves.items():
            self._curves[key] += curve
        for file_id in self.classes:
            self._has_truth[file_id] |= other._has_truth[file_id]
        return self

    def average_precision(self, kind: str) -> np.ndarray:
        """``float64[K, 10]`` by class and overlap; NaN for a class without scored instances in the truth."""
        rows = []
        for file_id in self.classes:
            curves = [self._curves[kind, file_id, level] for level in range(len(OVERLAPS))]
            if not self._has_truth[file_id]:
                rows.append([float("nan")] * len(OVERLAPS))
            else:
                rows.append([curve.average_precision() for curve in curves])
        return np.array(rows)

    def summary(self) -> dict[str, float]:
        """The headline numbers by name, as shares of 1."""
        mask, boundary = (self.average_precision(kind) for kind in KINDS)
        return {
            "AP": nan_mean(mask),
            "AP50": nan_mean(mask[:, 0]),
            "boundary AP": nan_mean(boundary),
            "boundary AP50": nan_mean(boundary[:, 0]),
        }

    @property
    def by_class(self) -> dict[str, float]:
        """AP by class."""
        return dict(zip(self.classes.values(), self.average_precision("mask").mean(axis=1).tolist(), strict=True))

    def as_dict(self) -> dict[str, dict[str, float]]:
        """Everything as plain values, for JSON."""
        values = {"summary": self.summary()}
        for kind in KINDS:
            table = self.average_precision(kind)
            name = "ap" if kind == "mask" else "boundary_ap"
            values[f"class_{name}"] = dict(zip(self.classes.values(), table.mean(axis=1).tolist(), strict=True))
            values[f"class_{name}50"] = dict(zip(self.classes.values(), table[:, 0].tolist(), strict=True))
        return values


def _count(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _meet(
    mask: np.ndarray, truth: np.ndarray, near: np.ndarray, truths: dict[int, _Truth], width: int
) -> dict[str, list[_Meeting]]:
    """The truths that a mask overlaps, by kind of overlap."""
    left, top, columns, rows = cv2.boundingRect(mask.astype(np.uint8))
    window = (slice(top, top + rows), slice(left, left + columns))
    inside, truth, near = mask[window].astype(np.uint8), truth[window], near[window]
    # Around the window there is no mask, or no image: the border counts either way.
    edge = inside.astype(bool) & near_boundary(inside, width, image_border=True)
    pixels, edge_pixels = np.count_nonzero(inside), np.count_nonzero(edge)
    shared, shared_edge = _count(truth[inside > 0]), _count(truth[edge & near])
    meetings: dict[str, list[_Meeting]] = {kind: [] for kind in KINDS}
    for value, each in truths.items():
        common, common_edge = shared.get(value, 0), shared_edge.get(value, 0)
        if not common:
            continue
        overlap = common / (each.pixels + pixels - common)
        meetings["mask"].append(_Meeting(value, overlap, common))
        if common_edge:
            edge_overlap = common_edge / (each.boundary + edge_pixels - common_edge)
            meetings["boundary"].append(_Meeting(value, min(overlap, edge_overlap), common))
    return meetings
