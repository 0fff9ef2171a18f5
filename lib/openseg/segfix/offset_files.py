"""Offset files: what the SegFix network predicts for an image.

Two formats, told apart by their suffix; label ``a.png`` belongs to ``a.png`` or ``a.mat`` of the offset folder.

``.png``  ours: the codes of ``OffsetMap`` as 8-bit gray, marked by the text entry ``openseg: offsets 2`` so that a
          folder of label maps given by mistake is noticed.
``.mat``  the original's: key ``mat``, integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1}; ours hold ``confidence`` besides,
          ``uint8[H, W]``.

Files inside a zip archive are read where they are.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import imagecodecs
import numpy as np

from openseg.errors import DataError
from openseg.io.files import atomic_write, list_files
from openseg.io.images import decode_gray_png, is_marked, write_label
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


OffsetFile = Path | ZipMember


def write_offsets(
    path: str | os.PathLike, offsets: OffsetMap | np.ndarray, dtype: Literal["int8", "int32"] = "int8"
) -> None:
    """Write a map, or ``[H, W, 2]`` in {-1, 0, 1}, in the format that the suffix names, atomically.

    ``dtype`` is of the array in a ``.mat``; the original wrote ``int32``.

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
    """The offsets of a file of either format, ``int8[H, W, 2]``; raises as ``read_offset_map``."""
    return read_offset_map(Path(path)).offsets


def read_offset_map(place: str | os.PathLike | ZipMember) -> OffsetMap:
    """Read an offset file of either format; of a file without confidences, all directions are sure.

    Raises:
        DataError: missing, damaged, or not an offset file.
    """
    place = place if isinstance(place, ZipMember) else Path(place)
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
    return place.read_bytes() if isinstance(place, Path) else _open_archive(place.archive).read(place.name)


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
    arrays: dict[str, np.ndarray] = {}
    with contextlib.suppress(ValueError, struct.error, zlib.error, imagecodecs.ZlibngError):  # SciPy says what is wrong
        arrays = _plain_arrays(content)
    if "mat" not in arrays:
        from scipy.io import loadmat

        arrays = loadmat(io.BytesIO(content))
    offsets, confidence = arrays.get("mat"), arrays.get("confidence")
    if offsets is None or offsets.ndim != 3 or offsets.shape[2] != 2:
        raise DataError("not an offset file (no array 'mat' of height x width x 2)")
    return OffsetMap.of(offsets, confidence)


# Numbers of types and sizes of parts in a file of MATLAB 5, see "MAT-File Format" by The MathWorks.
_MAT_HEADER = 128
_MAT_COMPRESSED, _MAT_MATRIX, _MAT_COMPLEX = 15, 14, 0x0800
_MAT_TYPES = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}


def _plain_arrays(content: bytes) -> dict[str, np.ndarray]:
    """The compressed numeric arrays of a file of MATLAB 5, without SciPy's detours; empty for anything out of line.

    Reading the original's offsets is mostly inflating their many zeros, which zlib-ng does in half the time.
    """
    arrays: dict[str, np.ndarray] = {}
    place = _MAT_HEADER
    if content[_MAT_HEADER - 2 : _MAT_HEADER] != b"IM":
        return {}
    while place < len(content):
        kind, length = struct.unpack_from("<II", content, place)
        packed = memoryview(content)[place + 8 : place + 8 + length]
        if kind != _MAT_COMPRESSED or len(packed) < length:
            return {}
        start = zlib.decompressobj().decompress(packed, 8)
        kind, size = struct.unpack("<II", start)
        if kind != _MAT_MATRIX:
            return {}
        named = _plain_array(memoryview(imagecodecs.zlibng_decode(bytes(packed), out=size + 8))[8:])
        if named is None:
            return {}
        arrays[named[0]] = named[1]
        place += 8 + length
    return arrays


def _plain_array(content: memoryview) -> tuple[str, np.ndarray] | None:
    """Name and values of one matrix: four parts, each with its type and size before it."""
    parts = []
    place = 0
    for _ in range(4):
        kind, length = struct.unpack_from("<II", content, place)
        if kind >> 16:  # up to four bytes stand where the size would be
            kind, length = kind & 0xFFFF, kind >> 16
            parts.append((kind, content[place + 4 : place + 4 + length]))
            place += 8
        else:
            parts.append((kind, content[place + 8 : place + 8 + length]))
            place += 8 + -(-length // 8) * 8
    (_, flags), (_, sizes), (_, name), (kind, values) = parts
    shape = np.frombuffer(sizes, "<i4")
    if kind not in _MAT_TYPES or struct.unpack_from("<I", flags)[0] & _MAT_COMPLEX:
        return None
    array = np.frombuffer(values, _MAT_TYPES[kind])
    return (bytes(name).decode(), array.reshape(shape, order="F")) if array.size == shape.prod() else None


def archive_names(archive: Path) -> list[str]:
    """The offset files in a zip archive; what macOS adds is left out.

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
    """The offset files in a folder, a zip archive, or a folder inside of one, by their path in it.

    Raises:
        DataError: no folder, or no offset file.
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
