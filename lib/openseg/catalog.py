"""Facts of the data sets: class names, colours, file ids and training ids; one YAML file each in ``catalogs/``.

On disk a label map holds the data set's own ids. In the loader, the networks and the metrics it holds training ids
``0..K-1`` and ``IGNORE``. Both ways are one table look-up.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import yaml

from openseg.errors import ConfigError, DataError, nearest_names

__all__ = ["CATALOG_NAMES", "IGNORE", "Catalog", "get_catalog"]

IGNORE = 255
"""Training id of pixels that count neither in the loss nor in a score."""

_UNKNOWN = 254


@dataclass(frozen=True)
class Catalog:
    """What is known of one data set.

    Attributes:
        name: as experiments call it.
        folder: below the data root.
        classes: class names in the order of training ids.
        colors: RGB of each class.
        ids: file id of each class.
        ignored_ids: file ids that are no class; they become ``IGNORE``. 255 always is one.
        void_id: the file id written for ``IGNORE``.
        thing_ids: file ids of countable classes (their instance maps hold ``id * 1000 + number``).
        flip_pairs: training ids of classes that change places in a mirrored image, such as left and right arm.
        class_weights: weights of the cross-entropy, or None for equal ones.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    ignored_ids: tuple[int, ...] = ()
    void_id: int = IGNORE
    thing_ids: tuple[int, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
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

    @cached_property
    def flipped_classes(self) -> np.ndarray:
        """Training id of each class in a mirrored image, ``uint8[256]``; ``IGNORE`` stays."""
        table = np.arange(256, dtype=np.uint8)
        for left, right in self.flip_pairs:
            table[[left, right]] = right, left
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


_FOLDER = Path(__file__).parent / "catalogs"
CATALOG_NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


def get_catalog(name: str) -> Catalog:
    """The facts of data set ``name``.

    Raises:
        ConfigError: unknown name; the message lists the nearest ones.
    """
    if name not in CATALOG_NAMES:
        raise ConfigError(f"unknown data set '{name}'; {nearest_names(name, CATALOG_NAMES)}")
    return _read_catalog(name)


@functools.cache
def _read_catalog(name: str) -> Catalog:
    facts = yaml.safe_load((_FOLDER / f"{name}.yaml").read_text(encoding="utf-8"))
    classes = facts.pop("classes")
    ids = tuple(entry["id"] for entry in classes)
    weights = tuple(entry["weight"] for entry in classes if "weight" in entry)
    pairs = facts.pop("flip_pairs", ())
    return Catalog(
        name=name,
        folder=facts.pop("folder", name),
        classes=tuple(entry["name"] for entry in classes),
        colors=tuple(tuple(entry["color"]) for entry in classes),
        ids=ids,
        void_id=facts.pop("void_id", IGNORE),
        flip_pairs=tuple((ids.index(left), ids.index(right)) for left, right in pairs),
        class_weights=weights or None,
        **{key: tuple(values) for key, values in facts.items()},
    )
