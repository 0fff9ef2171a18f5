"""PNG chunk reader: only chunks that define the pixels reach a decoder, after their size was checked.

Texts and color profiles may inflate to any size, and the data may exceed the pixels; decoders spend minutes on either
or print warnings. Orientation metadata is kept.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import imagecodecs
import numpy as np

from openseg.io.limits import TooManyPixels, max_pixels, too_many_pixels

__all__ = ["PNG_SIGNATURE", "Png", "decode_gray_png", "decode_plain_png", "is_marked", "open_png", "with_text"]

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_START = len(PNG_SIGNATURE) + 8  # then length and name of the header
_HEADER = struct.Struct(">IIBBBBB")
_HEADER_END = _START + _HEADER.size + 4  # with its checksum
_BEGINNING = 200  # bytes: the header and the text of with_text
_GRAY, _RGB, _PALETTE = 0, 2, 3
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 1, 4: 2, 6: 4}
_NEEDED = {b"IHDR", b"PLTE", b"IDAT"}
_SHOWN = {b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"}  # how it is shown, or how many images it holds
_TURNING = (b"Raw profile type exif", b"Raw profile type APP1", b"XML:com.adobe.xmp")
_LONGEST_TEXT = 1 << 16
_SLACK = 1 << 16


class Png(NamedTuple):
    """A checked PNG: its relevant chunks and header fields.

    Attributes:
        content: the file with only those chunks.
        plain: no chunk changes how pixels are displayed.
    """

    content: bytes
    width: int
    height: int
    bits: int
    kind: int
    plain: bool


def open_png(content: bytes) -> Png:
    """Check a PNG and keep its relevant chunks.

    Raises:
        ValueError: damaged, of more than ``max_pixels()``, or with more data than its pixels take.
        struct.error: it ends too early.
    """
    if len(content) < _HEADER_END:
        raise ValueError("truncated in its header")
    width, height, bits, kind, *_ = _HEADER.unpack_from(content, _START)
    if content[_START - 4 : _START] != b"IHDR" or kind not in _CHANNELS:
        raise ValueError("a PNG without a header")
    if width * height > max_pixels():
        raise TooManyPixels(too_many_pixels((height, width)))
    kept, plain, packed, whole = [], True, 0, True
    for name, part, start, end in _chunks(content):
        if name in _NEEDED:
            packed += len(part) if name == b"IDAT" else 0
            kept.append((start, end))
        elif name in _SHOWN or (name in (b"tEXt", b"zTXt", b"iTXt") and _turns(part)):
            plain = False
            kept.append((start, end))
        elif name == b"IEND":
            kept.append((start, end))
        else:
            whole = False
    row = -(-width * _CHANNELS[kind] * bits // 8) + 1
    most = height * row + 7 * (height + 8)  # interlaced images have up to 7 rows for one
    if packed > most + most // 16 + _SLACK:
        raise ValueError(f"{packed:,} bytes of data for {height} x {width} pixels")
    if not whole or kept[-1][1] < len(content):
        content = PNG_SIGNATURE + b"".join(content[start:end] for start, end in kept)
    return Png(content, width, height, bits, kind, plain)


def _turns(text: memoryview) -> bool:
    """Whether a text chunk may hold the orientation, and is short enough to read."""
    return len(text) < _LONGEST_TEXT and bytes(text[:80]).split(b"\0")[0] in _TURNING


def _chunks(content: bytes) -> Iterator[tuple[bytes, memoryview, int, int]]:
    """Name, content, start and end of each part up to the last; ValueError where a needed one differs from its sum."""
    place, name = len(PNG_SIGNATURE), b""
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, place)
        end = place + length + 12
        part = memoryview(content)[place + 8 : place + 8 + length]
        (expected,) = struct.unpack_from(">I", content, end - 4)
        if name in _NEEDED and zlib.crc32(part, zlib.crc32(name)) != expected:
            raise ValueError(f"the checksum of its {name.decode()} differs")
        yield name, part, place, end
        place = end


def decode_plain_png(content: bytes, colors: bool) -> np.ndarray | None:
    """8 or 16-bit grays ``[H, W]``, or 8-bit ``colors`` ``[H, W, 3]``, of a PNG; None for whatever is not just that.

    Raises:
        ValueError, struct.error, imagecodecs.PngError: damaged, see ``open_png``.
    """
    png = open_png(content)
    wanted = ((8, _RGB),) if colors else ((8, _GRAY), (16, _GRAY))
    if not png.plain or (png.bits, png.kind) not in wanted:
        return None
    return imagecodecs.png_decode(png.content)


def decode_gray_png(content: bytes) -> np.ndarray:
    """The grays ``uint8`` or ``uint16[H, W]`` of a PNG.

    Raises:
        ValueError, struct.error, imagecodecs.PngError: of another kind, or damaged.
    """
    pixels = decode_plain_png(content, colors=False) if content[:8] == PNG_SIGNATURE else None
    if pixels is None:
        raise ValueError("not an image of 8 or 16-bit grays")
    return pixels


def is_marked(content: bytes, text: tuple[str, str]) -> bool:
    """Whether a PNG begins with the ``text`` that ``with_text`` gave it."""
    return "\0".join(text).encode("latin-1") in content[:_BEGINNING]


def with_text(content: bytes, text: tuple[str, str]) -> bytes:
    """A PNG with a text after its header: a keyword and what it says."""
    name, value = b"tEXt", "\0".join(text).encode("latin-1")
    chunk = struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
    return content[:_HEADER_END] + chunk + content[_HEADER_END:]
