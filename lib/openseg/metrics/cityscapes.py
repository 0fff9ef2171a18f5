"""What the Cityscapes benchmark reports beside class IoU: category IoU, and iIoU of classes and categories.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016. In iIoU every instance of the
ground truth counts as much as one of average size: its pixels are weighted by average size over its own size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.metrics.confusion import ConfusionMatrix, nan_mean, require_same_shape
from openseg.metrics.exact import ExactSums

__all__ = ["CATEGORIES", "CityscapesCounts"]

CATEGORIES = {
    "flat": ("road", "sidewalk"),
    "construction": ("building", "wall", "fence"),
    "object": ("pole", "traffic light", "traffic sign"),
    "nature": ("vegetation", "terrain"),
    "sky": ("sky",),
    "human": ("person", "rider"),
    "vehicle": ("car", "truck", "bus", "train", "motorcycle", "bicycle"),
}
_FILE_IDS = {
    **{"road": 7, "sidewalk": 8, "building": 11, "wall": 12, "fence": 13, "pole": 17, "traffic light": 19},
    **{"traffic sign": 20, "vegetation": 21, "terrain": 22, "sky": 23, "person": 24, "rider": 25, "car": 26},
    **{"truck": 27, "bus": 28, "train": 31, "motorcycle": 32, "bicycle": 33},
}
"""Label ID of each class, as the benchmark's programs expect it."""
_INSTANCE_CATEGORIES = ("human", "vehicle")
_UNSCORED_VEHICLES = (29, 30)
"""Ids of caravan and trailer: predicted, they are vehicles to the iIoU of categories, and nothing to all else."""
_AVERAGE_SIZE = {
    "person": 3462.4756337644,
    "rider": 3930.4788056518,
    "car": 12794.0202738185,
    "truck": 27855.1264367816,
    "bus": 35732.1511111111,
    "train": 67583.7075812274,
    "motorcycle": 6298.7200839748,
    "bicycle": 4672.3249222261,
}
"""Pixels of an average instance in the training set."""


class CityscapesCounts:
    """Weighted right and wrong pixels of instances, beside a confusion matrix of the same pairs."""

    def __init__(self, info: DatasetInfo, confusion: ConfusionMatrix) -> None:
        """``confusion`` is counted and added elsewhere."""
        self.classes, self.file_ids = info.classes, info.ids
        self.confusion = confusion
        self._sums = ExactSums((len(self.classes) + len(CATEGORIES), 2))
        self.with_instances = False
        self._members = [np.array([self.classes.index(name) for name in names]) for names in CATEGORIES.values()]
        self._category_of = {int(member): row for row, members in enumerate(self._members) for member in members}
        self._unscored = np.zeros(len(self.classes), np.int64)  # predicted as caravan or trailer, by true class

    @staticmethod
    def fits(info: DatasetInfo) -> bool:
        """Whether a dataset has the classes and ids of Cityscapes, in label files of ids."""
        members = {name for names in CATEGORIES.values() for name in names}
        ids = dict(zip(info.classes, info.ids, strict=True))
        return ids == _FILE_IDS and set(info.classes) == members and not (info.merged_ids or info.label_colors)

    def update(self, ids: np.ndarray, prediction: np.ndarray, truth: np.ndarray, instances: np.ndarray) -> None:
        """Add the instances of one pair.

        Args:
            ids: predicted label IDs, ``uint8[H, W]``.
            prediction, truth: train IDs, ``uint8[H, W]``.
            instances: the ground truth's ``instanceIds``, ``uint16[H, W]``: ``id * 1000 + number`` inside objects
                alone.

        Raises:
            DataError: the shapes differ.
        """
        for each in (ids, prediction, instances):
            require_same_shape(each, truth)
        self.with_instances = True
        unscored = np.isin(ids, _UNSCORED_VEHICLES)
        self._unscored += np.bincount(truth[unscored], minlength=256)[: len(self.classes)]
        alone = np.flatnonzero(instances > 1000)
        numbers = instances.ravel()[alone]
        order = np.argsort(numbers, kind="stable")
        starts = np.flatnonzero(np.diff(numbers[order], prepend=0))
        for group in np.split(alone[order], starts[1:]):
            if group.size:
                self._add_instance(int(instances.ravel()[group[0]]) // 1000, prediction.ravel()[group], unscored, group)

    def _add_instance(self, file_id: int, predicted: np.ndarray, unscored: np.ndarray, pixels: np.ndarray) -> None:
        if file_id not in self.file_ids:  # caravan, trailer
            return
        label = self.file_ids.index(file_id)
        average = _AVERAGE_SIZE.get(self.classes[label])
        if average is None:
            return
        weight = average / pixels.size
        category = self._category_of[label]
        hits = np.count_nonzero(predicted == label)
        found = np.isin(predicted, self._members[category])
        if list(CATEGORIES)[category] == "vehicle":
            found |= unscored.ravel()[pixels]
        category_hits = np.count_nonzero(found)
        added = np.zeros(self._sums.shape)
        added[label] = hits * weight, (pixels.size - hits) * weight
        added[len(self.classes) + category] = category_hits * weight, (pixels.size - category_hits) * weight
        self._sums.add(added)

    def merge(self, other: CityscapesCounts) -> None:
        """Add the instances of another one; its confusion matrix is merged elsewhere."""
        self._sums.merge(other._sums)
        self.with_instances |= other.with_instances
        self._unscored += other._unscored

    def counts_dict(self) -> dict[str, Any]:
        """What was counted, see ``Metric.counts_dict``."""
        sums = self._sums.counts()
        return {"instances": sums, "unscored": self._unscored.tolist(), "with_instances": self.with_instances}

    def add_counts(self, counts: dict[str, Any]) -> None:
        """Add what ``counts_dict`` gave."""
        self._sums.add_counts(counts["instances"])
        self._unscored += np.array(counts["unscored"], np.int64)
        self.with_instances |= bool(counts["with_instances"])

    @property
    def instances(self) -> np.ndarray:
        """Weighted hits and misses by class, then by category of ``CATEGORIES``: ``float64[K + C, 2]``."""
        return self._sums.values

    @property
    def category_iou(self) -> dict[str, float]:
        """IoU by category; NaN for one that neither ground truth nor prediction holds."""
        values = {}
        for name, members in zip(CATEGORIES, self._members, strict=True):
            hits = self.confusion.counts[np.ix_(members, members)].sum()
            union = self.confusion.counts[members].sum() + self.confusion.counts[:, members].sum() - hits
            values[name] = float(hits / union) if union else float("nan")
        return values

    @property
    def class_iiou(self) -> dict[str, float]:
        """iIoU by class that has instances; NaN for one that neither ground truth nor prediction holds."""
        counts, instances = self.confusion.counts, self.instances
        values = {}
        for name in _AVERAGE_SIZE:
            label = self.classes.index(name)
            wrong = counts[:, label].sum() - counts[label, label]
            values[name] = _share(instances[label], wrong)
        return values

    @property
    def category_iiou(self) -> dict[str, float]:
        """iIoU of the categories whose classes all have instances."""
        counts, instances = self.confusion.counts, self.instances
        values = {}
        for row, name in enumerate(CATEGORIES):
            if name not in _INSTANCE_CATEGORIES:
                continue
            members = self._members[row]
            others = np.setdiff1d(np.arange(len(self.classes)), members)
            wrong = counts[np.ix_(others, members)].sum()
            if name == "vehicle":
                wrong += self._unscored[others].sum()
            values[name] = _share(instances[len(self.classes) + row], wrong)
        return values

    def compute(self) -> dict[str, float]:
        """The headline numbers by name, as shares of 1."""
        values = {"category IoU": _mean(self.category_iou)}
        if self.with_instances:
            values |= {"iIoU": _mean(self.class_iiou), "category iIoU": _mean(self.category_iiou)}
        return values

    def as_dict(self) -> dict[str, dict[str, float]]:
        """The values behind ``compute`` by name, for JSON."""
        values = {"category_iou": self.category_iou}
        if self.with_instances:
            values |= {"class_iiou": self.class_iiou, "category_iiou": self.category_iiou}
        return values


def _share(weighted: np.ndarray, wrong: int) -> float:
    total = weighted.sum() + wrong
    return float(weighted[0] / total) if total else float("nan")


def _mean(values: dict[str, float]) -> float:
    return nan_mean(np.array(list(values.values())))
