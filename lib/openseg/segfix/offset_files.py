"""Offset files: SegFix predictions of an image.

Two formats, identified by suffix; label ``a.png`` is matched with ``a.png`` or ``a.mat`` of the offset folder.

``.png``  ours: the codes of ``OffsetMap`` as 8-bit gray, marked by the text entry ``openseg: offsets 2`` so that a
          folder of label maps given by mistake is noticed.
``.mat``  the original's: key ``mat``, integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1}; ours hold ``confidence`` besides,
          ``uint8[H, W]``.

Files inside a zip archive are read where they are.
"""

from __future__ import annotations

import functools
import os
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np

from openseg.errors import DataError
from openseg.io.blob import HeldFile, ImageFile, as_file
from openseg.io.files import atomic_write, list_files
from openseg.io.images import write_label
from openseg.io.limits import max_pixels
from openseg.io.mat import read_mat
from openseg.io.png import decode_gray_png, is_marked
from openseg.segfix.offsets import LEVELS, NUM_DIRECTIONS, OffsetMap

__all__ = [
    "OFFSET_SUFFIXES",
    "ZipMember",
    "list_offsets",
    "read_offset_map",
    "read_offsets",
    "write_offsets",
]

OFFSET_SUFFIXES = (".png", ".mat")
_MARK = ("openseg", "offsets 2")


class ZipMember(NamedTuple):
    """A file inside a zip archive."""

    archive: Path
    name: str

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    @property
    def suffix(self) -> str:
        return Path(self.name).suffix


OffsetFile = Path | ZipMember | HeldFile


def write_offsets(
    path: str | os.PathLike, offsets: OffsetMap | np.ndarray, dtype: Literal["int8", "int32"] = "int8"
) -> None:
    """Write an offset map, or offsets ``[H, W, 2]`` in {-1, 0, 1}, in the format of the suffix, atomically.

    ``dtype`` of the array in a ``.mat``; the original wrote ``int32``.

    Raises:
        DataError: the suffix is neither ``.png`` nor ``.mat``, or other values.
    """
    path = Path(path)
    _check_suffix(path)
    offsets = offsets if isinstance(offsets, OffsetMap) else OffsetMap.of(offsets)
    if path.suffix.lower() == ".png":
        write_label(path, offsets.codes, text=_MARK)
        return
    from scipy.io import savemat  # takes longer to import than the rest of openseg.segfix

    with atomic_write(path, durable=False) as temporary:
        content = {"mat": offsets.offsets.astype(dtype), "confidence": offsets.confidence}
        savemat(temporary, content, do_compression=True)


def read_offsets(path: str | os.PathLike) -> np.ndarray:
    """Read offsets of either format as ``int8[H, W, 2]``; errors as in ``read_offset_map``."""
    return read_offset_map(Path(path)).offsets


def read_offset_map(place: ImageFile | ZipMember) -> OffsetMap:
    """Read an offset file of either format; without confidences in the file, all are 1.

    Raises:
        DataError: missing, damaged, or not an offset file.
    """
    place = place if isinstance(place, ZipMember) else as_file(place)
    _check_suffix(place)
    try:
        content = _content(place)
    except (FileNotFoundError, KeyError):
        raise DataError(f"{place}: no such offset file") from None
    except (OSError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{place}: cannot be read ({error}); copy it again") from None
    try:
        if not content:
            raise DataError("an empty offset file; predict it again")
        return _from_mat(content) if place.suffix.lower() == ".mat" else _from_png(content)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None
    except Exception as error:  # the parsers raise whatever they meet in a damaged file
        raise DataError(f"{place}: damaged offset file ({error}); predict it again") from None


def _check_suffix(place: OffsetFile) -> None:
    if place.suffix.lower() not in OFFSET_SUFFIXES:
        raise DataError(f"{place}: an offset file ends in {' or '.join(OFFSET_SUFFIXES)}")


def _content(place: OffsetFile) -> bytes:
    if not isinstance(place, ZipMember):
        return place.read_bytes()
    archive = _open_archive(place.archive)
    if archive.getinfo(place.name).file_size > 16 * max_pixels():  # two values of 8 bytes a pixel, not compressed
        raise DataError(f"{place}: inflates to more than an image of {max_pixels():,} pixels has; it is no offset file")
    return archive.read(place.name)


def _open_archive(path: Path) -> zipfile.ZipFile:
    # Processes that share an open file would move each other's place in it.
    return _open_archive_of(path, path.stat().st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=2)
def _open_archive_of(path: Path, *_: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def _from_png(content: bytes) -> OffsetMap:
    if not is_marked(content, _MARK):
        raise DataError("a PNG, but not an offset file of openseg; is this a folder of labels, or of an older version?")
    codes = decode_gray_png(content)
    if codes.max(initial=0) > NUM_DIRECTIONS * LEVELS:
        raise DataError(f"damaged offset file (code {codes.max()}); predict it again")
    return OffsetMap(codes)


def _from_mat(content: bytes) -> OffsetMap:
    arrays = read_mat(content, ("mat", "confidence"))
    offsets, confidence = arrays.get("mat"), arrays.get("confidence")
    if offsets is None or offsets.ndim != 3 or offsets.shape[2] != 2:
        raise DataError("not an offset file (no array 'mat' of height x width x 2)")
    return OffsetMap.of(offsets, confidence)


def archive_names(archive: Path) -> list[str]:
    """List the offset files in a zip archive, without files added by macOS.

    Raises:
        DataError: it is damaged.
    """
    try:
        names = _open_archive(archive).namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{archive}: damaged archive ({error}); download it again") from None
    paths = [PurePosixPath(name) for name in names]
    return [
        path.as_posix()
        for path in paths
        if path.suffix.lower() in OFFSET_SUFFIXES and not path.name.startswith(".") and path.parts[0] != "__MACOSX"
    ]


def list_offsets(place: str | os.PathLike) -> dict[str, OffsetFile]:
    """List the offset files in a folder, a zip archive, or a folder inside an archive, by path.

    Raises:
        DataError: not a folder, or no offset files.
    """
    place = Path(place)
    archive = next((each for each in (place, *place.parents) if each.suffix.lower() == ".zip" and each.is_file()), None)
    if archive is None:
        return {path.relative_to(place).as_posix(): path for path in list_files(place, OFFSET_SUFFIXES)}
    inside = place.relative_to(archive).as_posix()
    prefix = "" if inside == "." else f"{inside}/"
    found: dict[str, OffsetFile] = {
        name.removeprefix(prefix): ZipMember(archive, name)
        for name in archive_names(archive)
        if name.startswith(prefix)
    }
    if not found:
        raise DataError(f"{place}: no offset file ({' or '.join(OFFSET_SUFFIXES)}) in this archive")
    return found
