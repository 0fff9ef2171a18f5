"""Dataset metadata: class names, colors, label IDs and train IDs, and the file layout of splits.

On disk, a label map holds the dataset's label IDs. In the loader, the networks and the metrics it holds train IDs
``0..K-1`` and ``IGNORE_INDEX``. Conversion is one table look-up in either direction. Built-in datasets are YAML files
in ``definitions/``; a user's dataset is one more such file (``dataset_file``, docs/your-data.md).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import cv2
import numpy as np

from openseg.errors import DataError
from openseg.io.bands import read_bands
from openseg.io.blob import ImageFile
from openseg.io.images import color_mode, read_color_label, read_image, read_label
from openseg.labels import IGNORE_INDEX, UNKNOWN

__all__ = ["Band", "DatasetInfo", "SplitFiles", "color_keys"]


_BLACK = (0, 0, 0)
_MANY_VALUES = 3
_SOFT = (
    "so many values between those of classes are soft edges, as of masks that were resized or blurred: resize them by "
    "nearest neighbor, or say unknown_values: nearest (or ignore) in the dataset's file"
)


@dataclass(frozen=True)
class SplitFiles:
    """File layout of a split, relative to the dataset's folder; None: ``<split>/<kind>``.

    Attributes:
        list: text file of the names in the split, or, without ``image``, of paths: image, tab, label.
        image_suffix, image_prefix: parts of image names around the sample's name, such as ``_sat``.
        label_suffix, label_prefix: parts of label names around the sample's name, such as ``_mask``.
        shards: instead of folders, tar files of WebDataset or Parquet tables with images and labels: a pattern or an
            address, see ``openseg.io.sources``.
    """

    image: str | None = None
    label: str | None = None
    instance: str | None = None
    list: str | None = None
    image_suffix: str = ""
    image_prefix: str = ""
    label_suffix: str = ""
    label_prefix: str = ""
    shards: str | None = None


class Band(NamedTuple):
    """A channel of the images: its name, and mean and standard deviation of its values in the files."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class DatasetInfo:
    """Metadata of one dataset.

    Attributes:
        name: also used for result folders.
        folder: below the data root; absolute for a user's dataset file.
        classes: class names in the order of train IDs.
        colors: RGB of each class.
        ids: label ID of each class.
        merged_ids: (label ID, train ID) of further IDs that count as a class.
        ignored_ids: label IDs mapped to ``IGNORE_INDEX``, including 255 unless it is a class.
        void_id: label ID written for ``IGNORE_INDEX``.
        thing_ids: label IDs of countable classes (their instance maps hold ``id * 1000 + number``).
        flip_pairs: train IDs of classes that swap in a mirrored image, such as left and right arm.
        class_weights: weights of the cross-entropy, or None for equal weights.
        label_colors: label files are color-coded images.
        ignored_colors: colors in them that are ignored.
        splits: file layouts other than ``<split>/{image,label}``.
        boundary_ratio: boundary width of Boundary IoU, as a fraction of the image diagonal.
        unknown_values: unknown values in label files: error; nearest: map to the nearest ID or color; ignore.
        bands: channels of the images; empty: RGB of 8 bits.
        display: positions of the bands to show as red, green and blue.
    """

    name: str
    folder: str
    classes: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    ids: tuple[int, ...]
    merged_ids: tuple[tuple[int, int], ...] = ()
    ignored_ids: tuple[int, ...] = ()
    void_id: int = IGNORE_INDEX
    thing_ids: tuple[int, ...] = ()
    flip_pairs: tuple[tuple[int, int], ...] = ()
    class_weights: tuple[float, ...] | None = field(default=None, repr=False)
    label_colors: bool = False
    ignored_colors: tuple[tuple[int, int, int], ...] = ()
    splits: Mapping[str, SplitFiles] = field(default_factory=dict)
    boundary_ratio: float = 0.02
    unknown_values: str = "error"
    bands: tuple[Band, ...] = field(default=(), repr=False)
    display: tuple[int, int, int] = field(default=(0, 1, 2), repr=False)

    @property
    def channels(self) -> int:
        """Number of channels of the images."""
        return len(self.bands) or 3

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @cached_property
    def _encode_table(self) -> np.ndarray:
        table = np.full(1 << 16, UNKNOWN, np.uint8)
        table[[IGNORE_INDEX, *self.ignored_ids]] = IGNORE_INDEX
        table[list(self.ids)] = np.arange(self.num_classes, dtype=np.uint8)
        for file_id, train_id in self.merged_ids:
            table[file_id] = train_id
        unknown = np.flatnonzero(table[:256] == UNKNOWN)
        if self.unknown_values == "ignore":
            table[table == UNKNOWN] = IGNORE_INDEX
        elif self.unknown_values == "nearest" and unknown.size:
            known = np.flatnonzero(table[:256] != UNKNOWN)
            table[unknown] = table[known[np.abs(unknown[:, None] - known).argmin(axis=1)]]
        return table

    @cached_property
    def _color_table(self) -> np.ndarray:
        """Table from color (``red << 16 | green << 8 | blue``) to train ID."""
        table = np.full(1 << 24, UNKNOWN, np.uint8)
        for colors, values in ((self.ignored_colors, None), (self.colors, range(self.num_classes))):
            for position, (red, green, blue) in enumerate(colors):
                table[red << 16 | green << 8 | blue] = IGNORE_INDEX if values is None else values[position]
        return table

    @cached_property
    def _decode_table(self) -> np.ndarray:
        table = np.full(256, self.void_id, np.uint8)
        table[: self.num_classes] = self.ids
        return table

    @cached_property
    def flipped_classes(self) -> np.ndarray:
        """Train ID of each class in a mirrored image, ``uint8[256]``; ``IGNORE_INDEX`` is unchanged."""
        table = np.arange(256, dtype=np.uint8)
        for left, right in self.flip_pairs:
            table[[left, right]] = right, left
        return table

    @cached_property
    def _values(self) -> dict[str, int]:
        """Train ID of each valid value of label files (an ID, or a color as text)."""
        if self.label_colors:
            values = {str(color): IGNORE_INDEX for color in self.ignored_colors}
            return values | {str(color): number for number, color in enumerate(self.colors)}
        table = self._encode_table
        return {str(value): int(table[value]) for value in np.flatnonzero(table != UNKNOWN)}

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the meaning of label file values."""
        return hashlib.sha256(repr(self._values).encode()).hexdigest()[:12]

    @cached_property
    def output_fingerprint(self) -> str:
        """Hash of everything that affects written predictions: classes, IDs, colors, flip pairs."""
        facts = replace(self, folder="", splits={}, class_weights=None, boundary_ratio=0.0)
        text = f"{facts!r}{self.bands}" if self.bands else repr(facts)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def meaning(self) -> dict[str, Any]:
        """Class names and label values, stored in checkpoints."""
        return {"classes": list(self.classes), "values": self._values}

    @cached_property
    def _prediction_table(self) -> np.ndarray:
        return np.where(self._encode_table == UNKNOWN, np.uint8(IGNORE_INDEX), self._encode_table)

    @property
    def byte_table(self) -> np.ndarray:
        """Train ID, ``IGNORE_INDEX`` or ``UNKNOWN`` per 8-bit label ID, ``uint8[256]``."""
        return self._encode_table[:256]

    def encode_known(self, labels: np.ndarray) -> np.ndarray:
        """Convert label IDs ``uint8`` or ``uint16[H, W]``, or colors ``uint8[H, W, 3]``, to train IDs ``uint8[H, W]``.

        Unknown values become ``UNKNOWN``.
        """
        if labels.ndim < 3:
            return _look_up(self._encode_table, labels)
        keys = color_keys(labels)
        encoded = np.take(self._color_table, keys)
        unknown = encoded == UNKNOWN
        if self.unknown_values == "error" or not unknown.any():
            return encoded
        if self.unknown_values == "ignore":
            encoded[unknown] = IGNORE_INDEX
            return encoded
        found, where = np.unique(keys[unknown], return_inverse=True)
        strange = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
        known = np.array([*self.colors, *self.ignored_colors])
        nearest = [int(((known - color) ** 2).sum(axis=1).argmin()) for color in strange]
        meant = [IGNORE_INDEX if place >= self.num_classes else place for place in nearest]
        encoded[unknown] = np.array(meant, np.uint8)[where.ravel()]
        return encoded

    def encode(self, labels: np.ndarray, source: object = "label map") -> np.ndarray:
        """Convert like ``encode_known``, with an error for unknown values.

        Raises:
            DataError: an unknown value; the message names ``source`` and the value.
        """
        encoded = self.encode_known(labels)
        unknown = encoded == UNKNOWN
        if unknown.any():
            raise DataError(f"{source}: {self.explain_unknown(labels[unknown])}")
        return encoded

    def explain_unknown(self, values: np.ndarray) -> str:
        """Explain in one line why a label map with unknown ``values`` (IDs ``[N]`` or colors ``[N, 3]``) is invalid."""
        if values.ndim == 2:
            strange = np.unique(values, axis=0)
            colors = ", ".join(str(tuple(color)) for color in strange[:3].tolist())
            fix = _SOFT if len(strange) >= _MANY_VALUES else "add it to its classes or to ignored_colors"
            return f"color {colors} is not a class of {self.name}; {fix}"
        unknown = np.unique(values)
        instance = " (instance map given as labels?)" if unknown[-1] > IGNORE_INDEX else ""
        between = int(np.count_nonzero((unknown > min(self.ids)) & (unknown < max(self.ids))))
        known = _ranges([*self.ids, *(file_id for file_id, _ in self.merged_ids)])
        return (
            f"value {', '.join(map(str, unknown[:5]))} is not a label ID of {self.name}{instance}; known IDs are "
            f"{known} and, ignored, {_ranges(np.flatnonzero(self._encode_table == IGNORE_INDEX).tolist())}; "
            + (_SOFT if between >= _MANY_VALUES else "add it to the dataset's ids or ignored_ids")
        )

    def merge_instances(self, instances: np.ndarray) -> np.ndarray:
        """Return an instance map with stuff IDs of the same class merged into one."""
        table = np.arange(1 << 16, dtype=np.uint16)
        for file_id, train_id in self.merged_ids:
            if file_id <= IGNORE_INDEX:  # larger values are instance IDs
                table[file_id] = self.ids[train_id]
        return np.take(table, instances)

    def encode_prediction(self, labels: np.ndarray) -> np.ndarray:
        """Convert predicted label IDs to train IDs; IDs outside the classes become ``IGNORE_INDEX`` (misses)."""
        return _look_up(self._prediction_table, labels)

    def read_image(self, path: ImageFile) -> np.ndarray:
        """Read an image: RGB ``uint8[H, W, 3]``, or of bands ``float32[H, W, C]``, normalized.

        Raises:
            DataError: missing, damaged, or with other bands.
        """
        return self.normalize_bands(read_bands(path, self.channels)) if self.bands else read_image(path)

    def normalize_bands(self, values: np.ndarray) -> np.ndarray:
        """Subtract each band's mean and divide by its standard deviation: ``[H, W, C]`` -> ``float32[H, W, C]``."""
        mean, std = (np.array([getattr(band, key) for band in self.bands], np.float32) for key in ("mean", "std"))
        return (values.astype(np.float32) - mean) / std

    def read_rgb(self, path: ImageFile) -> np.ndarray:
        """Read an image for display, RGB ``uint8[H, W, 3]``, see ``as_rgb``."""
        return self.as_rgb(self.read_image(path))

    def as_rgb(self, image: np.ndarray) -> np.ndarray:
        """An image of ``read_image`` for display, RGB ``uint8[H, W, 3]``; bands show 2.5 deviations around the mean."""
        if not self.bands:
            return image
        return np.clip(image[..., list(self.display)] * 51 + 127.5, 0, 255).astype(np.uint8)

    def read_raw(self, path: ImageFile) -> np.ndarray:
        """Read a label file unconverted: IDs ``[H, W]``, or colors ``uint8[H, W, 3]`` of a color-coded dataset."""
        return read_color_label(path) if self.label_colors else read_label(path)

    def read_truth(self, path: ImageFile) -> np.ndarray:
        """Read a label file as train IDs ``uint8[H, W]``.

        Raises:
            DataError: missing, damaged, or with an unknown value.
        """
        return self.encode(self.read_raw(path), path)

    def read_raw_prediction(self, path: ImageFile) -> np.ndarray:
        """Read a predicted label file unconverted: IDs ``[H, W]``, or class colors ``uint8[H, W, 3]``.

        Colors are also accepted where the dataset's labels are IDs. Palette images are read as IDs unless the dataset
        is color-coded and most pixels have colors of classes.

        Raises:
            DataError: damaged, or ambiguous colors.
        """
        if not self.label_colors:
            try:
                return read_label(path)
            except DataError:
                if color_mode(path) not in ("RGB", "RGBA"):
                    raise
                colors = read_color_label(path)
                if (colors == colors[..., :1]).all():  # gray stored as RGB
                    raise
            if len({*self.colors, _BLACK}) <= self.num_classes:
                raise DataError(
                    f"{path}: a color image, but several classes of {self.name} share a color (or one is black); give "
                    "a folder of label IDs"
                )
            return colors
        mode = color_mode(path)
        if mode in ("RGB", "RGBA"):
            return read_color_label(path)
        if mode == "P":
            colors = read_color_label(path)
            if np.mean(self.encode_known(colors) < self.num_classes) > 0.5:
                return colors
        return read_label(path)

    def encode_colors(self, colors: np.ndarray, path: object) -> np.ndarray:
        """Convert predicted colors ``uint8[H, W, 3]`` to train IDs; black is ``IGNORE_INDEX`` unless it is a class.

        Raises:
            DataError: a color that belongs to no class.
        """
        encoded = self.encode_known(colors)
        encoded[(encoded == UNKNOWN) & (colors == 0).all(axis=2)] = IGNORE_INDEX
        unknown = encoded == UNKNOWN
        if unknown.any():
            found, counts = np.unique(colors[unknown], axis=0, return_counts=True)
            order = np.argsort(-counts, kind="stable")[:3]
            names = ", ".join(f"{tuple(found[i].tolist())}: {counts[i] / unknown.size:.2%}" for i in order)
            raise DataError(
                f"{path}: colors that are not classes of {self.name} ({names} of the pixels); give a folder of ids, or "
                "of the exact colors of its classes; if the values of a palette are train IDs, say --train-ids"
            )
        return encoded

    def read_prediction(self, path: ImageFile) -> np.ndarray:
        """Read a predicted label file as train IDs; IDs outside the classes become ``IGNORE_INDEX``.

        Raises:
            DataError: see ``read_raw_prediction`` and ``encode_colors``.
        """
        raw = self.read_raw_prediction(path)
        return self.encode_colors(raw, path) if raw.ndim == 3 else self.encode_prediction(raw)

    def decode(self, train_ids: np.ndarray) -> np.ndarray:
        """Convert train IDs to label IDs ``uint8``; values outside the classes become ``void_id``."""
        return self._decode_table[train_ids]

    def colorize(self, train_ids: np.ndarray) -> np.ndarray:
        """Convert train IDs to RGB ``uint8[H, W, 3]``; values outside the classes are black."""
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colors
        return table[train_ids]

    def overlay(self, image: np.ndarray, train_ids: np.ndarray) -> np.ndarray:
        """Blend the class colors of train IDs with the RGB image ``uint8[H, W, 3]``, half and half."""
        return cv2.addWeighted(self.colorize(train_ids), 0.5, np.ascontiguousarray(image), 0.5, 0)


def _look_up(table: np.ndarray, labels: np.ndarray) -> np.ndarray:
    if labels.dtype == np.uint8 and labels.ndim == 2 and labels.size:
        return cv2.LUT(labels, table[:256])  # several times faster
    return np.take(table, labels)


def color_keys(colors: np.ndarray) -> np.ndarray:
    """``uint8[..., 3]`` -> ``int32[...]``: ``red << 16 | green << 8 | blue``."""
    red, green, blue = (colors[..., channel].astype(np.int32) for channel in range(3))
    return red << 16 | green << 8 | blue


def _ranges(values: list[int]) -> str:
    """``[0, 1, 2, 5]`` -> ``0-2, 5``."""
    parts: list[list[int]] = []
    for value in sorted(set(values)):
        if parts and value == parts[-1][1] + 1:
            parts[-1][1] = value
        else:
            parts.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}, {b}" if b == a + 1 else f"{a}-{b}" for a, b in parts)
