"""Reader for numeric arrays of MATLAB 5 files, safe for damaged or hostile files.

Every size is checked before memory is allocated. Format: "MAT-File Format" by The MathWorks. SciPy's reader supports
more of it, but crashes the process on some damaged files.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from typing import NamedTuple

import imagecodecs
import numpy as np

from openseg.io.limits import max_pixels

__all__ = ["read_mat"]

_HEADER = 128
_COMPRESSED, _MATRIX = 15, 14
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_CLASSES = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800
_START = 4096
"""Bytes in which flags, sizes and name of an array stand."""


class _Part(NamedTuple):
    """An element of a matrix: type, start and length of its data, and start of the next element."""

    kind: int
    start: int
    length: int
    end: int


def read_mat(content: bytes, wanted: Collection[str]) -> dict[str, np.ndarray]:
    """Return the numeric arrays named in ``wanted`` of a MATLAB 5 file (``-v6`` and ``-v7``).

    Raises:
        ValueError: another format, a damaged file, or an array larger than the limit of image pixels.
    """
    if content[:8] == b"\x89HDF\r\n\x1a\n" or content[:19] == b"MATLAB 7.3 MAT-file":
        raise ValueError("a file of MATLAB 7.3; save it with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(content[_HEADER - 2 : _HEADER])
    if order is None:
        raise ValueError("no file of MATLAB 5")
    found = {}
    place = _HEADER
    while place < len(content):
        if len(content) - place < 8:
            raise ValueError("ends in the middle of an array")
        kind, length = struct.unpack_from(f"{order}II", content, place)
        body = memoryview(content)[place + 8 : place + 8 + length]
        if len(body) < length:
            raise ValueError("ends in the middle of an array")
        try:
            named = _array(body, kind, order, wanted)
        except (struct.error, zlib.error, imagecodecs.ZlibngError, UnicodeDecodeError, IndexError) as error:
            raise ValueError(f"damaged ({error})") from None
        if named is not None:
            found[named[0]] = named[1]
        place += 8 + length
    return found


def _array(body: memoryview, kind: int, order: str, wanted: Collection[str]) -> tuple[str, np.ndarray] | None:
    """Return name and values of an element; None if it is not wanted or not a plain numeric array."""
    start, size, compressed = body[:_START], len(body), kind == _COMPRESSED
    if compressed:
        start = memoryview(zlib.decompressobj().decompress(body, _START))
        kind, size = struct.unpack_from(f"{order}II", start)
        start = start[8:]
    if kind != _MATRIX:
        return None
    flags = _part(start, 0, order)
    bits = struct.unpack_from(f"{order}I", start, flags.start)[0]
    sizes = _part(start, flags.end, order)
    name = _part(start, sizes.end, order)
    values = _part(start, name.end, order)
    if name.start + name.length > len(start):
        raise ValueError("damaged (a name without an end)")
    text = bytes(start[name.start : name.start + name.length]).decode("latin-1")
    if text not in wanted:
        return None
    if bits & _COMPLEX or bits & 0xFF not in _CLASSES:
        raise ValueError(f"'{text}' is not an array of real numbers")
    if sizes.length % 4 or not 8 <= sizes.length <= 32 or values.kind not in _TYPES:
        raise ValueError(f"damaged (the sizes or the type of '{text}')")
    shape = struct.unpack_from(f"{order}{sizes.length // 4}i", start, sizes.start)
    count = 1
    for length in shape:
        if length < 0:
            raise ValueError(f"damaged ('{text}' has {length} rows)")
        count *= length
    if count > 2 * max_pixels():  # offsets have two values a pixel
        raise ValueError(f"'{text}' has {count} values, more than {2 * max_pixels()}; OPENSEG_MAX_PIXELS allows more")
    dtype = np.dtype(f"{order}{_TYPES[values.kind]}")
    if values.length != count * dtype.itemsize or values.start + values.length > size:
        raise ValueError(f"damaged ('{text}' of {shape} values has {values.length} bytes)")
    data = memoryview(imagecodecs.zlibng_decode(bytes(body), out=size + 8))[8:] if compressed else body
    if len(data) < values.start + values.length:
        raise ValueError("ends in the middle of an array")
    array = np.frombuffer(data[values.start : values.start + values.length], dtype)
    wide = np.dtype(_CLASSES[bits & 0xFF])
    return text, array.astype(wide, copy=False).reshape(shape, order="F")


def _part(content: memoryview, place: int, order: str) -> _Part:
    kind, length = struct.unpack_from(f"{order}II", content, place)
    if kind >> 16:  # up to four bytes stand where the size would be
        kind, length = kind & 0xFFFF, kind >> 16
        if length > 4:
            raise ValueError("damaged (a small part of more than 4 bytes)")
        return _Part(kind, place + 4, length, place + 8)
    return _Part(kind, place + 8, length, place + 8 + -(-length // 8) * 8)
