"""Facts of the data sets: class names, colours, file ids and training ids.

On disk a label map holds the data set's own ids. In the loader, the networks and the metrics it holds training ids
``0..K-1`` and ``IGNORE``. Both ways are one table look-up.

Sources: Cityscapes (Cordts et al., CVPR 2016; ids and colours of the official label list), CamVid (Brostow et al.,
2008/2009; the 11 classes of the SegNet release).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from openseg.errors import ConfigError, DataError, nearest_names

__all__ = ["CATALOG", "IGNORE", "Catalog", "get_catalog"]

IGNORE = 255
"""Training id of pixels that count neither in the loss nor in a score."""

_UNKNOWN = 254


@dataclass(frozen=True)
class Catalog:
    """What is known of one data set.

    Attributes:
        name: folder name below the data root.
        classes: class names in the order of training ids.
        colors: RGB of each class.
        ids: file id of each class.
        ignored_ids: file ids that are no class; they become ``IGNORE``. 255 always is one.
        void_id: the file id written for ``IGNORE``.
        thing_ids: file ids of countable classes (their instance maps hold ``id * 1000 + number``).
        class_weights: weights of the cross-entropy, or None for equal ones.
    """

    name: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    ignored_ids: tuple[int, ...] = ()
    void_id: int = IGNORE
    thing_ids: tuple[int, ...] = ()
    class_weights: tuple[float, ...] | None = field(default=None, repr=False)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def _encode_table(self) -> np.ndarray:
        table = np.full(256, _UNKNOWN, np.uint8)
        table[[*self.ignored_ids, IGNORE]] = IGNORE
        table[list(self.ids)] = np.arange(self.num_classes, dtype=np.uint8)
        return table

    @cached_property
    def _decode_table(self) -> np.ndarray:
        table = np.full(256, self.void_id, np.uint8)
        table[: self.num_classes] = self.ids
        return table

    def encode(self, labels: np.ndarray, source: object = "label map") -> np.ndarray:
        """File ids -> training ids, ``uint8`` of the same shape.

        Raises:
            DataError: a value that the table does not know; the message names ``source`` and the value.
        """
        if labels.dtype != np.uint8:
            if labels.max(initial=0) > np.iinfo(np.uint8).max:
                raise DataError(f"{source}: value {labels.max()} is no {self.name} id (instance map given as labels?)")
            labels = labels.astype(np.uint8)
        encoded = self._encode_table[labels]
        if (encoded == _UNKNOWN).any():
            unknown = np.unique(labels[encoded == _UNKNOWN])
            raise DataError(
                f"{source}: value {', '.join(map(str, unknown[:5]))} is no id of {self.name}; known ids are "
                f"{', '.join(map(str, self.ids))} and, ignored, {', '.join(map(str, (*self.ignored_ids, IGNORE)))}"
            )
        return encoded

    def encode_prediction(self, labels: np.ndarray) -> np.ndarray:
        """File ids of a prediction -> training ids; whatever is no class becomes ``IGNORE`` (a miss where truth is)."""
        table = np.where(self._encode_table == _UNKNOWN, IGNORE, self._encode_table).astype(np.uint8)
        return table[np.where(labels > IGNORE, IGNORE, labels).astype(np.uint8)]

    def decode(self, train_ids: np.ndarray) -> np.ndarray:
        """Training ids -> file ids, ``uint8``; anything that is no class becomes ``void_id``."""
        return self._decode_table[train_ids]

    def colorize(self, train_ids: np.ndarray) -> np.ndarray:
        """Training ids -> RGB ``uint8[H, W, 3]``; anything that is no class is black."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table[train_ids]


_CITYSCAPES = (
    (7, "road", (128, 64, 128), 0.8373),
    (8, "sidewalk", (244, 35, 232), 0.9180),
    (11, "building", (70, 70, 70), 0.8660),
    (12, "wall", (102, 102, 156), 1.0345),
    (13, "fence", (190, 153, 153), 1.0166),
    (17, "pole", (153, 153, 153), 0.9969),
    (19, "traffic light", (250, 170, 30), 0.9754),
    (20, "traffic sign", (220, 220, 0), 1.0489),
    (21, "vegetation", (107, 142, 35), 0.8786),
    (22, "terrain", (152, 251, 152), 1.0023),
    (23, "sky", (70, 130, 180), 0.9539),
    (24, "person", (220, 20, 60), 0.9843),
    (25, "rider", (255, 0, 0), 1.1116),
    (26, "car", (0, 0, 142), 0.9037),
    (27, "truck", (0, 0, 70), 1.0865),
    (28, "bus", (0, 60, 100), 1.0955),
    (31, "train", (0, 80, 100), 1.0865),
    (32, "motorcycle", (0, 0, 230), 1.1529),
    (33, "bicycle", (119, 11, 32), 1.0507),
)
# The weights are 1 / ln(1.1 + share of the class in train), divided by their mean.
_CAMVID = (
    (0, "sky", (128, 128, 128), 0.578),
    (1, "building", (128, 0, 0), 0.478),
    (2, "pole", (192, 192, 128), 1.345),
    (3, "road", (128, 64, 128), 0.393),
    (4, "pavement", (60, 40, 222), 1.027),
    (5, "tree", (128, 128, 0), 0.767),
    (6, "sign symbol", (192, 128, 128), 1.322),
    (7, "fence", (64, 64, 128), 1.327),
    (8, "car", (64, 0, 128), 0.941),
    (9, "pedestrian", (64, 64, 0), 1.387),
    (10, "bicyclist", (0, 128, 192), 1.434),
)


# 1 / ln(1.05 + share of the class in 120 rendered scenes), divided by the mean of the classes that are rendered. The
# classes that are not have the largest weight; no pixel ever asks for it.
_DEMO_WEIGHTS = (
    *(0.22, 0.76, 0.25, 1.54, 1.17, 1.32, 1.48, 1.48, 0.73, 1.35),
    *(0.45, 1.31, 1.44, 0.74, 1.54, 1.54, 1.54, 1.54, 1.28),
)


def _cityscapes(name: str, class_weights: tuple[float, ...] | None = None) -> Catalog:
    ids, classes, colors, weights = zip(*_CITYSCAPES, strict=True)
    return Catalog(
        name=name,
        classes=classes,
        colors=colors,
        ids=ids,
        ignored_ids=tuple(sorted(set(range(34)) - set(ids))),
        void_id=IGNORE,
        thing_ids=tuple(range(24, 34)),
        class_weights=class_weights or weights,
    )


def _camvid() -> Catalog:
    ids, classes, colors, weights = zip(*_CAMVID, strict=True)
    return Catalog(
        name="camvid",
        classes=classes,
        colors=colors,
        ids=ids,
        ignored_ids=(11,),
        void_id=11,
        class_weights=weights,
    )


CATALOG: dict[str, Catalog] = {
    "cityscapes": _cityscapes("cityscapes"),
    "camvid": _camvid(),
    # Rendered street scenes (openseg.data.scenes) in the ids of Cityscapes.
    "demo": _cityscapes("demo", _DEMO_WEIGHTS),
}


def get_catalog(name: str) -> Catalog:
    """The facts of data set ``name``.

    Raises:
        ConfigError: unknown name; the message lists the nearest ones.
    """
    if name not in CATALOG:
        raise ConfigError(f"unknown data set '{name}'; {nearest_names(name, CATALOG)}")
    return CATALOG[name]
