"""Refinement of label files with offsets; needs no torch."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo, color_keys
from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.errors import DataError
from openseg.io.images import (
    color_mode,
    read_color_label,
    read_label,
    read_palette,
    require_same_size,
    write_image,
    write_label,
)
from openseg.io.results import Journal
from openseg.labels import IGNORE_INDEX
from openseg.segfix import OffsetMap, read_offset_map, refine, refine_mask
from openseg.segfix.offset_files import OffsetFile

__all__ = ["RefineSettings", "refine_file", "refine_label", "sources_of"]

_PIXELS_A_STEP = 512
_MOST_PIXELS = 1000


@dataclass(frozen=True)
class RefineSettings:
    """Refinement settings.

    ``scale`` None: the image's shorter side divided by 512 (2 for 1024x2048). ``eval_ids_only``: IDs outside the
    dataset's classes become 255, as in the original.
    """

    dataset: str
    scale: int | None
    min_confidence: float = 0.0
    eval_ids_only: bool = False
    keep_thin: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.keep_thin <= _MOST_PIXELS:
            raise DataError(f"keep-thin {self.keep_thin}: use 0 to {_MOST_PIXELS} pixels")
        if self.scale is not None and not 0 <= self.scale <= _MOST_PIXELS:
            raise DataError(f"scale {self.scale}: use 0 to {_MOST_PIXELS} pixels")
        if not 0 <= self.min_confidence <= 1:
            raise DataError(f"min-confidence {self.min_confidence}: use a number from 0 to 1")

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the results, besides labels and offsets."""
        values: dict[str, Any] = {"scale": self.scale, "min_confidence": self.min_confidence}
        values["keep_thin"] = self.keep_thin
        info = get_dataset_info(self.dataset)
        if self.eval_ids_only or self.dataset not in DATASET_NAMES:
            values["ids"] = [info.output_fingerprint, self.eval_ids_only]
        return values

    def __call__(self, labels: np.ndarray, offsets: OffsetMap) -> np.ndarray:
        return refine(labels, offsets, self._scale_of(labels.shape), None, self.min_confidence, self.keep_thin)

    def mask(self, mask: np.ndarray, offsets: OffsetMap) -> np.ndarray:
        """The refined mask ``bool[H, W]`` of one object."""
        return refine_mask(mask, offsets, self._scale_of(mask.shape), self.min_confidence, self.keep_thin)

    def _scale_of(self, size: tuple[int, ...]) -> int:
        """Pixels a step in an image of a size."""
        return max(round(min(size) / _PIXELS_A_STEP), 1) if self.scale is None else self.scale


def sources_of(files: tuple[Path, OffsetFile, Path]) -> tuple[Path, Path]:
    """Source files of a refined label."""
    label, offset, _ = files
    return label, offset if isinstance(offset, Path) else offset.archive


def refine_file(
    files: tuple[Path, OffsetFile, Path], how: RefineSettings, journal: Journal | None = None, fail_fast: bool = False
) -> str | None:
    """Refine one label file: ``files`` are label, offset and output. Returns what is wrong with them, or None.

    Raises:
        DataError: what is wrong, with ``fail_fast``.
        OpensegError: the output cannot be written.
    """
    label, offset, out = files
    try:
        with journal.writing(*sources_of(files)) if journal else contextlib.nullcontext():
            refine_label(label, read_offset_map(offset), out, how, str(offset))
    except DataError as error:
        if fail_fast:
            raise
        return str(error)
    return None


def refine_label(label: Path, offsets: OffsetMap, out: Path, how: RefineSettings, source: str) -> None:
    """Refine a label file with the offsets of ``source``; a palette stays.

    Raises:
        DataError: the label cannot be read, or is of another size than the offsets.
    """
    mode = color_mode(label)
    if mode in ("RGB", "RGBA"):
        if how.eval_ids_only:
            raise DataError(f"{label}: colors; --eval-ids-only is for label maps of ids")
        colors = read_color_label(label)
        require_same_size(label, colors.shape, source, offsets.shape)
        keys = how(color_keys(colors), offsets)
        write_image(out, np.stack([keys >> 16, keys >> 8 & 255, keys & 255], axis=2).astype(np.uint8))
        return
    labels = read_label(label)
    require_same_size(label, labels.shape, source, offsets.shape)
    refined = how(labels, offsets)
    if how.eval_ids_only:
        table = _evaluated_ids(get_dataset_info(how.dataset, fresh=False))
        refined = cv2.LUT(refined, table[:256]) if refined.dtype == np.uint8 else table[refined]
    write_label(out, refined, read_palette(label) if mode == "P" else None)


def _evaluated_ids(info: DatasetInfo) -> np.ndarray:
    """``uint8[65536]``: ids of classes as they are; for others 255, or ``void_id`` where 255 is something else."""
    table = np.full(1 << 16, IGNORE_INDEX if info.byte_table[IGNORE_INDEX] == IGNORE_INDEX else info.void_id, np.uint8)
    known = np.flatnonzero(info.byte_table < info.num_classes)
    table[known] = info.decode(info.byte_table[known])
    return table
