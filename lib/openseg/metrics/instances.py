"""Average precision of instance masks by the rules of the Cityscapes benchmark, by mask and by Boundary IoU.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016: overlaps 0.50 to 0.95, each
prediction and instance at most once a hit, the better scored of two hits kept; what lies on ignored areas, groups or
instances below 100 pixels is no false positive. Boundary AP (Cheng et al., "Boundary IoU", CVPR 2021) takes the smaller
of mask and boundary IoU instead, and only meets where both masks and both boundaries do, as its authors' program.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from openseg.metrics.boundary import boundary_width, near_boundary
from openseg.metrics.confusion import nan_mean, require_same_shape

__all__ = ["OVERLAPS", "InstanceScores", "PredictedInstance"]

OVERLAPS = np.arange(0.5, 1.0, 0.05)
_BITS = 1 << np.arange(len(OVERLAPS))
_MIN_PIXELS = 100
_FIRST_INSTANCE = 1000
KINDS = ("mask", "boundary")


class PredictedInstance(NamedTuple):
    """One mask ``bool[H, W]``, the label ID of its class, and how sure the model is of it."""

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


class _Seen(NamedTuple):
    """What is kept of a prediction once its mask is gone; ``ignored`` pixels lie on void."""

    confidence: float
    pixels: int
    ignored: int
    meetings: dict[str, list[_Meeting]]


class _Curve:
    """What each prediction is at each overlap, a bit a level: a hit, a false positive, or neither."""

    def __init__(self) -> None:
        self.confidence, self.hits, self.wrong = array("d"), array("H"), array("H")
        self.missed = np.zeros(len(OVERLAPS), np.int64)

    def add(self, confidence: float, hit: np.ndarray, wrong: np.ndarray) -> None:
        """``hit, wrong: bool[10]``."""
        self.confidence.append(confidence)
        self.hits.append(int(hit @ _BITS))
        self.wrong.append(int(wrong @ _BITS))

    def merge(self, other: _Curve) -> None:
        self.confidence.extend(other.confidence)
        self.hits.extend(other.hits)
        self.wrong.extend(other.wrong)
        self.missed += other.missed

    def average_precision(self, level: int) -> float:
        """Area under precision over recall, each step as wide as half the way to both its neighbors."""
        hits, wrong = (np.asarray(each, np.int64) >> level & 1 for each in (self.hits, self.wrong))
        counted = (hits | wrong) > 0
        hits, confidence = hits[counted], np.asarray(self.confidence)[counted]
        if not hits.any():
            return 0.0
        order = np.argsort(confidence, kind="stable")
        _, first = np.unique(confidence[order], return_index=True)
        hits_below = np.concatenate([[0], np.cumsum(hits[order])])[first]
        found = hits.sum() - hits_below
        precision = np.append(found / (len(hits) - first), 1.0)
        recall = np.append(found / (hits.sum() + self.missed[level]), 0.0)
        around = np.concatenate([recall[:1], recall, [0.0]])
        return float(precision @ ((around[:-2] - around[2:]) / 2))


class InstanceScores:
    """AP and AP50 of a set of images, by class and kind of overlap (``mask``, ``boundary``)."""

    def __init__(self, classes: dict[int, str], void_ids: Sequence[int], ratio: float = 0.005) -> None:
        """
        Args:
            classes: names of the scored classes by label ID.
            void_ids: values of instance maps on which predictions count for nothing.
            ratio: width of boundaries over image diagonal.
        """
        self.classes = dict(classes)
        self.void_ids = np.array(sorted(void_ids), np.int64)
        self.ratio = ratio
        self._has_truth = dict.fromkeys(classes, False)
        self._curves = {(kind, file_id): _Curve() for kind in KINDS for file_id in classes}

    def update(self, predictions: Iterable[PredictedInstance], truth: np.ndarray) -> None:
        """Add one image; one mask is in memory at a time if ``predictions`` makes them one by one.

        Args:
            truth: ``uint16[H, W]``: ``id * 1000 + number`` of single objects, an id alone elsewhere.

        Raises:
            DataError: a mask is of another size.
        """
        width = boundary_width(truth.shape, self.ratio)
        near = near_boundary(truth, width, image_border=True)
        void = np.isin(truth, self.void_ids)
        pixels, edges = _count(truth), _count(truth[near])
        truths: dict[int, dict[int, _Truth]] = {file_id: {} for file_id in self.classes}
        for value, count in pixels.items():
            file_id = value if value < _FIRST_INSTANCE else value // _FIRST_INSTANCE
            if file_id in truths:
                truths[file_id][value] = _Truth(count, edges.get(value, 0), value < _FIRST_INSTANCE)
        seen: dict[int, list[_Seen]] = {file_id: [] for file_id in self.classes}
        for mask, file_id, confidence in predictions:
            require_same_shape(mask, truth)
            if file_id in seen and mask.any():
                meetings = _meet(mask, truth, near, truths[file_id], width)
                pixels_on, ignored = int(np.count_nonzero(mask)), int(np.count_nonzero(void & mask))
                seen[file_id].append(_Seen(confidence, pixels_on, ignored, meetings))
        for file_id in self.classes:
            scored = [v for v, each in truths[file_id].items() if not each.group and each.pixels >= _MIN_PIXELS]
            self._has_truth[file_id] |= bool(scored)
            for kind in KINDS:
                _match(self._curves[kind, file_id], kind, seen[file_id], truths[file_id], scored)

    def merge(self, other: InstanceScores) -> None:
        """Add what another one counted."""
        for key, curve in other._curves.items():
            self._curves[key].merge(curve)
        for file_id in self.classes:
            self._has_truth[file_id] |= other._has_truth[file_id]

    def average_precision(self, kind: str) -> np.ndarray:
        """``float64[K, 10]`` by class and overlap; NaN for a class without scored instances in the ground truth."""
        rows = []
        for file_id in self.classes:
            curve, there = self._curves[kind, file_id], self._has_truth[file_id]
            rows.append([curve.average_precision(level) if there else np.nan for level in range(len(OVERLAPS))])
        return np.array(rows)

    def compute(self) -> dict[str, float]:
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
        values = {"summary": self.compute()}
        for kind in KINDS:
            table = self.average_precision(kind)
            name = "ap" if kind == "mask" else "boundary_ap"
            values[f"class_{name}"] = dict(zip(self.classes.values(), table.mean(axis=1).tolist(), strict=True))
            values[f"class_{name}50"] = dict(zip(self.classes.values(), table[:, 0].tolist(), strict=True))
        return values


def _match(curve: _Curve, kind: str, seen: list[_Seen], truths: dict[int, _Truth], scored: list[int]) -> None:
    """Hits, misses and false positives of one class in one image, at all overlaps."""
    hits = np.zeros((len(seen), len(OVERLAPS)), bool)
    wrong, met = np.zeros_like(hits), np.zeros_like(hits)
    for level, overlap in enumerate(OVERLAPS):
        found = [[each.truth for each in one.meetings[kind] if each.overlap > overlap] for one in seen]
        met[:, level] = [bool(each) for each in found]
        for value in scored:
            candidates = [number for number, values in enumerate(found) if value in values]
            if not candidates:
                curve.missed[level] += 1
                continue
            best = max(candidates, key=lambda number: seen[number].confidence)
            wrong[candidates, level] = True
            wrong[best, level], hits[best, level] = False, True
    for number, one in enumerate(seen):
        beside = one.ignored
        for meeting in one.meetings[kind]:
            truth = truths[meeting.truth]
            beside += meeting.shared * (truth.group + (truth.pixels < _MIN_PIXELS))  # both: twice, as officially
        wrong[number] |= ~met[number] & (beside / one.pixels <= OVERLAPS)
        curve.add(one.confidence, hits[number], wrong[number])


def _count(values: np.ndarray) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def _meet(
    mask: np.ndarray, truth: np.ndarray, near: np.ndarray, truths: dict[int, _Truth], width: int
) -> dict[str, list[_Meeting]]:
    """The ground truth objects that a mask overlaps, by kind of overlap."""
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
