"""Reading and writing of images and label maps.

Pillow decodes, since it raises on truncated files where OpenCV returns a partly gray image; plain PNGs, the most common
case in training, are decoded by imagecodecs, which is as strict and faster (docs/dependencies.md).
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path

import imagecodecs
import numpy as np
from PIL import Image, UnidentifiedImageError

from openseg.errors import DataError
from openseg.io.blob import HeldFile, ImageFile, as_file
from openseg.io.files import atomic_write, explain_start
from openseg.io.limits import TooManyPixels, max_pixels, too_many_pixels
from openseg.io.png import PNG_SIGNATURE, decode_plain_png, open_png, with_text
from openseg.io.tiff import count_pictures, describe_tiff, unnamed_band

__all__ = [
    "FORMATS",
    "MORE_BANDS",
    "TURNED",
    "color_mode",
    "encode_image",
    "encode_label",
    "look_at_image",
    "read_color_label",
    "read_image",
    "read_label",
    "read_palette",
    "require_same_size",
    "write_image",
    "write_label",
]

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "TIFF", "GIF", "JPEG2000", "PPM")
"""What Pillow may read; its other formats start programs (PostScript) or are no images of ours."""

TURNED = "its EXIF orientation mirrors it or turns it by 180 degrees, which its size does not show"
MORE_BANDS = "a fourth channel, which is no transparency, is not used"
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LABEL_MODES = ("L", "P", "1", "I;16", "I;16B", "I")
_LABEL_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "PPM")
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


logging.getLogger("PIL").addHandler(logging.NullHandler())  # or its errors appear beside ours, without a file's name


def _read_plain_png(path: Path | HeldFile, colors: bool) -> np.ndarray | None:
    """Read an 8 or 16-bit gray PNG ``[H, W]``, or an 8-bit ``colors`` PNG ``[H, W, 3]``; None for other files."""
    try:
        with path.open("rb") as file:
            start = file.read(len(PNG_SIGNATURE))
            return decode_plain_png(start + file.read(), colors) if start == PNG_SIGNATURE else None
    except (OSError, ValueError, struct.error, imagecodecs.PngError):
        return None  # _open finds out what is wrong with it


def _open(path: Path | HeldFile) -> tuple[Image.Image, str]:
    """Return an image with loaded pixels, and its storage mode, such as ``L;4`` or ``RGB;16B``.

    The size and the number of images in the file were checked.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are refused below
            image = _opened(path)
            _require_one_picture(image, path)
            stored = _raw_mode(image)
            image.load()
            return image, stored
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{' (a broken symlink)' if path.is_symlink() else ''}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image") from None
    except PermissionError:
        raise DataError(f"{path}: permission denied; make it readable for this user") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_what_instead(path)}") from None
    except TooManyPixels as error:
        raise DataError(f"{path}: {error}") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more than {max_pixels():,} pixels; cut it into tiles") from None
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged file
        raise DataError(f"{path}: unreadable or truncated ({error}); copy it again or remove it") from None


def _opened(path: Path | HeldFile) -> Image.Image:
    """Open an image with Pillow, without loading pixels."""
    if max_pixels() > (Image.MAX_IMAGE_PIXELS or 0):
        Image.MAX_IMAGE_PIXELS = None  # its number of pixels is checked below
    with path.open("rb") as file:
        start = file.read(len(PNG_SIGNATURE))
        if start == PNG_SIGNATURE and path.stat().st_size > len(start):
            # Pillow leaves its checksums aside, and inflates all of its texts.
            return Image.open(io.BytesIO(open_png(start + file.read()).content), formats=FORMATS)
    return _lazy(path)


def _lazy(path: Path | HeldFile) -> Image.Image:
    return Image.open(path.open() if isinstance(path, HeldFile) else path, formats=FORMATS)


def _what_instead(path: Path | HeldFile) -> str:
    """Describe a file that is not an image, with the remedy."""
    if path.stat().st_size == 0:
        return "an empty file; replace or remove it"
    what = explain_start(path)
    if what:
        return f"not an image, but {what.removeprefix('is ')}"
    what = describe_tiff(path)
    if what:
        return f"{what}, which cannot be read; save three channels of 8 bits, or labels as one of 8 or 16"
    return "not an image; replace or remove it"


def _require_one_picture(image: Image.Image, path: Path | HeldFile) -> None:
    if image.width * image.height > max_pixels():
        raise DataError(f"{path}: {too_many_pixels((image.height, image.width))}")
    # A camera's MPO holds the photo first and its preview after it.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        count = count_pictures(image) if image.format == "TIFF" else getattr(image, "n_frames", 0)
        if count > 1:
            raise DataError(f"{path}: holds {count} images (animated or multi-page); save one of them")


def _raw_mode(image: Image.Image) -> str:
    tiles = getattr(image, "tile", None)
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return the transposition for an image's EXIF orientation, from EXIF, PNG text or XMP."""
    with contextlib.suppress(Exception), warnings.catch_warnings():  # damaged metadata of a good image
        warnings.simplefilter("ignore")
        return _TURNS.get(image.getexif().get(_ORIENTATION, 1))
    return None


def look_at_image(path: ImageFile) -> list[str]:
    """Return notes on an image: EXIF rotation, and unused channels."""
    path, notes = as_file(path), []
    with path.open("rb") as file:
        start = file.read(len(PNG_SIGNATURE))
        if start == PNG_SIGNATURE and open_png(start + file.read()).plain:
            return []
    image = _opened(path)
    if image.format == "PNG":  # texts may stand behind the pixels
        image.load()
    if _turn(image) in (Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM):
        notes.append(TURNED)
    if unnamed_band(image):
        notes.append(MORE_BANDS)
    return notes


def read_image(path: ImageFile) -> np.ndarray:
    """Read an image as RGB ``uint8[H, W, 3]`` (read-only), upright: its EXIF orientation is applied.

    Gray and palette images become RGB, CMYK is converted, transparency is dropped.

    Raises:
        DataError: missing, not an image, truncated, more than 8 bits a channel, or several images in one.
    """
    path = as_file(path)
    plain = _read_plain_png(path, colors=True)
    if plain is not None:
        return plain
    image, stored = _open(path)
    if image.mode not in _IMAGE_MODES or ("16" in stored and image.format != "BMP"):  # BMPs have 5 or 6 bits of 16
        raise DataError(
            f"{path}: pixels of kind {stored or image.mode}; images have 8 bits a channel, so choose the range that "
            "matters and convert it"
        )
    turn = _turn(image)
    image = image if turn is None else image.transpose(turn)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _open_label(path: Path | HeldFile) -> tuple[Image.Image, str]:
    image, stored = _open(path)
    if image.format not in _LABEL_FORMATS or image.info.get("compression") in ("jpeg", "webp"):
        raise DataError(
            f"{path}: a label map saved as {image.format}, whose compression changes values; save labels as PNG"
        )
    if _turn(image) is not None:
        raise DataError(f"{path}: a label map with an EXIF orientation, which not all programs see; save it without")
    return image, stored


def read_label(path: ImageFile) -> np.ndarray:
    """Read a single-channel label map as ``uint8[H, W]``, or ``uint16`` for 16-bit files; palette indices stay indices.

    Raises:
        DataError: missing, truncated, lossy, not single-channel, or beyond 16 bits.
    """
    path = as_file(path)
    plain = _read_plain_png(path, colors=False)
    if plain is not None:
        return plain
    image, stored = _open_label(path)
    if image.mode not in _LABEL_MODES:
        raise DataError(
            f"{path}: a label map has one channel of class IDs, this file is {image.mode}; {_remedy(image)}"
        )
    labels = np.array(image)
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    few_bits = re.fullmatch(r"L;([24])I?R?", stored)
    if few_bits:  # Pillow stretches these grays to 0..255
        labels //= np.uint8(255 // (2 ** int(few_bits[1]) - 1))
    if labels.dtype not in (np.uint8, np.uint16):
        if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{path}: label values from {labels.min()} to {labels.max()} do not fit 16 bits")
        labels = labels.astype(np.uint16)
    return labels


def _remedy(image: Image.Image) -> str:
    if image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return "its three channels are the same, so save one of them"
        return "if its colors stand for classes, say label_colors in the dataset's file (docs/your-data.md)"
    return "save the channel that holds the ids"


def color_mode(path: ImageFile) -> str:
    """Return Pillow's mode of an image file: ``RGB``, ``RGBA``, ``P`` (palette) or another."""
    with contextlib.suppress(Exception), _lazy(as_file(path)) as image:
        return image.mode
    return ""  # reading it says what is wrong


def read_palette(path: ImageFile) -> bytes | None:
    """Return the palette of an indexed image (RGB per value), or None."""
    with _lazy(as_file(path)) as image:
        palette = image.getpalette() if image.mode == "P" else None
    return None if palette is None else bytes(palette)


def read_color_label(path: ImageFile) -> np.ndarray:
    """Read a label map whose colors stand for classes as RGB ``uint8[H, W, 3]``.

    Raises:
        DataError: missing, truncated, lossy, not an image of 8-bit colors, or partly transparent.
    """
    path = as_file(path)
    image, _ = _open_label(path)
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        raise DataError(f"{path}: partly transparent colors; save the label map without transparency")
    if image.mode not in ("RGB", "RGBA", "P"):
        raise DataError(
            f"{path}: the dataset says label_colors, this file is {image.mode}; save colors as RGB, or drop that key"
        )
    return np.asarray(image.convert("RGB"))


def require_same_size(path: object, shape: Sequence[int], other: object, other_shape: Sequence[int]) -> None:
    """Raise DataError if maps of two matching files differ in size."""
    if tuple(shape[:2]) != tuple(other_shape[:2]):
        turned = tuple(shape[:2]) == tuple(other_shape[1::-1])
        hint = "; one of them is turned by 90 degrees (EXIF orientation of the image?)" if turned else ""
        raise DataError(
            f"{path}: size {shape[0]} x {shape[1]} differs from {other} {other_shape[0]} x {other_shape[1]}{hint}"
        )


def write_label(
    path: str | os.PathLike, labels: np.ndarray, palette: bytes | None = None, text: tuple[str, str] | None = None
) -> None:
    """Write labels as PNG, atomically; see ``encode_label``.

    Raises:
        DataError: unsupported labels.
    """
    try:
        content = encode_label(labels, palette, text)
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    with atomic_write(path, durable=False) as temporary:
        temporary.write_bytes(content)


def encode_label(labels: np.ndarray, palette: bytes | None = None, text: tuple[str, str] | None = None) -> bytes:
    """Encode ``labels`` (``uint8`` or ``uint16``, ``[H, W]``) as PNG.

    ``palette`` (RGB per value) makes an indexed PNG; ``text`` is a (keyword, text) entry.

    Raises:
        DataError: unsupported labels.
    """
    if labels.dtype not in (np.uint8, np.uint16) or labels.ndim != 2 or not labels.size:
        raise DataError(f"a label map is uint8 or uint16[height, width], this is {labels.dtype}{list(labels.shape)}")
    if palette is not None:
        if labels.dtype != np.uint8:
            raise DataError("a palette has 256 colors; labels must be uint8")
        image = Image.fromarray(labels)
        image.putpalette(palette.ljust(3 * 256, b"\0"))  # a color for every value
        return _encoded(image, ".png", 1)
    content = bytes(imagecodecs.png_encode(np.ascontiguousarray(labels), level=1, filter=imagecodecs.PNG.FILTER.UP))
    return content if text is None else with_text(content, text)


def write_image(path: str | os.PathLike, image: Image.Image | np.ndarray) -> None:
    """Write a PIL image or an RGB ``uint8[H, W, 3]`` array, atomically."""
    content = encode_image(image, Path(path).suffix)
    with atomic_write(path, durable=False) as temporary:
        temporary.write_bytes(content)


def encode_image(image: Image.Image | np.ndarray, suffix: str) -> bytes:
    """Encode a PIL image or an RGB ``uint8[H, W, 3]`` array in the format of a file name's ``suffix``."""
    return _encoded(Image.fromarray(image) if isinstance(image, np.ndarray) else image, suffix, 3)


def _encoded(image: Image.Image, suffix: str, level: int) -> bytes:
    """Encode to bytes; Pillow's own writer leaves a partial file without error on a full disk."""
    content = io.BytesIO()
    image.save(content, Image.registered_extensions()[suffix.lower()], compress_level=level)
    return content.getvalue()
