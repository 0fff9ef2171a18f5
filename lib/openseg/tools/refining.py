"""Refinement of label files with offsets; needs no torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo, color_keys
from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.errors import ConfigError, DataError
from openseg.io.blob import HeldFile
from openseg.io.files import atomic_write
from openseg.io.images import (
    color_mode,
    encode_image,
    encode_label,
    read_color_label,
    read_label,
    read_palette,
    require_same_size,
)
from openseg.io.results import Journal, ResultFolder
from openseg.labels import IGNORE_INDEX
from openseg.segfix import OffsetMap, read_offset_map, refine, refine_mask
from openseg.segfix.offset_files import OffsetFile, ZipMember
from openseg.tools.scoring import first_of

__all__ = [
    "Job",
    "LabelFile",
    "MaskRefiner",
    "RefineSettings",
    "refine_file",
    "remaining",
    "require_matches",
    "require_one_source",
    "sources_of",
    "write_left_out",
]

_PIXELS_A_STEP = 512
_MOST_PIXELS = 1000
_MOST_STEPS = 20


class MaskRefiner(Protocol):
    """Refines masks of objects: by offset files (``RefineSettings``), or by a network (``NetworkMasks``)."""

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the results, besides masks and the files that are read."""

    def read(self, place: OffsetFile) -> Any:
        """What ``mask`` needs of an image; its ``shape`` begins with (height, width)."""

    def mask(self, mask: np.ndarray, read: Any, /) -> np.ndarray:
        """The refined mask ``bool[H, W]`` of one object."""


@dataclass(frozen=True)
class RefineSettings:
    """Refinement settings.

    ``scale`` None: the image's shorter side divided by 512 (2 for 1024x2048). ``steps``: how often labels are moved,
    the next time from where they then are. ``eval_ids_only``: IDs outside the dataset's classes become 255, as in the
    original.
    """

    dataset: str
    scale: int | None
    min_confidence: float = 0.0
    eval_ids_only: bool = False
    keep_thin: int = 0
    steps: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.steps <= _MOST_STEPS:
            raise DataError(f"steps {self.steps}: use 1 to {_MOST_STEPS}")
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
        if self.steps > 1:  # results of earlier versions stay valid
            values["steps"] = self.steps
        info = get_dataset_info(self.dataset)
        if self.eval_ids_only or self.dataset not in DATASET_NAMES:
            values["ids"] = [info.output_fingerprint, self.eval_ids_only]
        return values

    def __call__(self, labels: np.ndarray, offsets: OffsetMap) -> np.ndarray:
        for _ in range(self.steps):
            labels = refine(labels, offsets, self._scale_of(labels.shape), None, self.min_confidence, self.keep_thin)
        return labels

    def read(self, place: OffsetFile) -> OffsetMap:
        """What ``mask`` needs of an image; see ``read_offset_map``."""
        return read_offset_map(place)

    def mask(self, mask: np.ndarray, offsets: OffsetMap) -> np.ndarray:
        """The refined mask ``bool[H, W]`` of one object."""
        for _ in range(self.steps):
            mask = refine_mask(mask, offsets, self._scale_of(mask.shape), self.min_confidence, self.keep_thin)
        return mask

    def _scale_of(self, size: tuple[int, ...]) -> int:
        """Pixels a step in an image of a size."""
        return max(round(min(size) / _PIXELS_A_STEP), 1) if self.scale is None else self.scale


def sources_of(files: tuple[Path, OffsetFile, Path]) -> tuple[Path, Path]:
    """Source files of a refined label."""
    label, offset, _ = files
    return label, offset.archive if isinstance(offset, ZipMember) else Path(str(offset))


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
            offsets = read_offset_map(offset)
            read = LabelFile.read(label, how, offsets.shape, str(offset))
            read.write(out, how(read.labels, offsets), how)
    except DataError as error:
        if fail_fast:
            raise
        return str(error)
    return None


@dataclass(frozen=True)
class LabelFile:
    """A label file: its IDs ``[H, W]``, or its colors as one number each, and its palette."""

    labels: np.ndarray
    palette: bytes | None = None
    colored: bool = False

    @staticmethod
    def read(path: Path | HeldFile, how: RefineSettings, size: tuple[int, ...], source: str) -> LabelFile:
        """Read a label file.

        Raises:
            DataError: it cannot be read, or is of another size than ``size``, which is that of ``source``.
        """
        mode = color_mode(path)
        colored = mode in ("RGB", "RGBA")
        if colored and how.eval_ids_only:
            raise DataError(f"{path}: colors; --eval-ids-only is for label maps of ids")
        labels = color_keys(read_color_label(path)) if colored else read_label(path)
        require_same_size(path, labels.shape, source, size)
        return LabelFile(labels, read_palette(path) if mode == "P" else None, colored)

    def write(self, out: Path, refined: np.ndarray, how: RefineSettings) -> None:
        """Write refined labels, see ``encode``."""
        content = self.encode(refined, how)
        with atomic_write(out, durable=False) as temporary:
            temporary.write_bytes(content)

    def encode(self, refined: np.ndarray, how: RefineSettings) -> bytes:
        """A PNG of refined labels, of the kind of this file; a palette stays."""
        if self.colored:
            return encode_image(
                np.stack([refined >> 16, refined >> 8 & 255, refined & 255], 2).astype(np.uint8), ".png"
            )
        if how.eval_ids_only:
            table = _evaluated_ids(get_dataset_info(how.dataset, fresh=False))
            refined = cv2.LUT(refined, table[:256]) if refined.dtype == np.uint8 else table[refined]
        return encode_label(refined, self.palette)


def _evaluated_ids(info: DatasetInfo) -> np.ndarray:
    """``uint8[65536]``: ids of classes as they are; for others 255, or ``void_id`` where 255 is something else."""
    table = np.full(1 << 16, IGNORE_INDEX if info.byte_table[IGNORE_INDEX] == IGNORE_INDEX else info.void_id, np.uint8)
    known = np.flatnonzero(info.byte_table < info.num_classes)
    table[known] = info.decode(info.byte_table[known])
    return table


@dataclass(frozen=True)
class Job:
    """One call of ``openseg.refine``; ``labels`` are relative to ``source``."""

    source: Path
    labels: list[str]
    out: Path
    how: RefineSettings
    workers: int
    overwrite: bool
    fail_fast: bool

    def target(self, name: str) -> Path:
        """Where the refined label is written: a PNG, whatever the label was."""
        return (self.out / name).with_suffix(".png")


def write_left_out(problems: Sequence[str], total: int, out: Path) -> Path | None:
    """Write what was left out beside ``out``; returns the file, None where nothing was left out.

    Raises:
        DataError: that is all.
    """
    listed = out.with_name(f"{out.name}_left_out.txt")
    if not problems:
        listed.unlink(missing_ok=True)
        return None
    if len(problems) >= total:
        raise DataError(first_of(problems))
    with atomic_write(listed) as temporary:
        temporary.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8", errors="replace")
    return listed


def require_one_source(offsets: object, images: object, checkpoint: object) -> None:
    """Raise ConfigError unless labels are refined either with offset files or with a network."""
    if checkpoint is not None and images is None:
        raise ConfigError("--checkpoint needs --images, the folder of the images")
    if images is not None and offsets is not None:
        raise ConfigError("--offset and --images exclude each other")


def require_matches(missing: Sequence[str], total: int, what: str, fail_fast: bool) -> list[str]:
    """What is wrong with files without a partner.

    Raises:
        DataError: all of them, or with ``fail_fast`` any.
    """
    problems = [f"{name} has no {what}" for name in missing]
    if problems and (fail_fast or len(problems) == total):
        raise DataError(f"{len(problems)} of {total} have no {what}: {first_of(problems)}")
    return problems


@contextlib.contextmanager
def remaining(
    files: Sequence[tuple[Path, OffsetFile, Path]],
    out: Path,
    made_by: dict[str, Any],
    overwrite: bool,
    suffixes: tuple[str, ...],
) -> Iterator[tuple[ResultFolder, list[tuple[Path, OffsetFile, Path]]]]:
    """The claimed folder, and what is still to do of (source, offset, output); see ``ResultFolder``."""
    with ResultFolder(out, made_by, suffixes, (".",), "overwrite" if overwrite else "replace") as folder:
        todo = [each for each in files if not folder.is_done(each[2], *sources_of(each), kind=".")]
        folder.tell_kept(len(files) - len(todo), len(files))
        yield folder, todo
