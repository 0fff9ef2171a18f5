"""Reading and writing images, label maps and other files, safely.

Pillow decodes, since it raises on truncated files where OpenCV returns a half-grey picture.
Everything is written to a temporary file in the same folder, fsynced and renamed: a reader never meets half a file,
and an interrupted writer leaves the previous content.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from openseg.errors import DataError, OpensegError

__all__ = [
    "IMAGE_SUFFIXES",
    "atomic_write",
    "claim_folder",
    "file_hash",
    "index_files",
    "is_colored",
    "list_files",
    "read_color_label",
    "read_image",
    "read_label",
    "sample_key",
    "write_image",
    "write_json",
    "write_label",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_IMAGE_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
_LABEL_MODES = ("L", "P", "1", "I;16", "I;16B", "I")
_LABEL_FORMATS = ("PNG", "TIFF", "BMP")
_MAX_PIXELS = 1 << 28
_ORIENTATION = 0x0112
# <city>_<sequence>_<frame> of Cityscapes, whatever follows it (_leftImg8bit, _gtFine_labelIds, ...).
_CITYSCAPES_KEY_PARTS = 3


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any failure it is removed.

    Raises:
        OpensegError: the folder cannot be written, or the disk is full. What stood at ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:80]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        mend = "free some space" if full else "check the path and its permissions"
        raise OpensegError(f"cannot write {path}: {error.strerror or error}; {mend} and run again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(value), indent=1) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def _open(path: Path) -> tuple[Image.Image, str]:
    """An image with its pixels read, and how the file stores them, such as ``L;4`` or ``RGB;16B``.

    It holds one picture of a size that fits into memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata, and of sizes that are refused below
            image = Image.open(path)
            _require_one_picture(image, path)
            stored = _raw_mode(image)
            image.load()
            return image, stored
    except FileNotFoundError:
        raise DataError(f"{path}: no such file{' (a link to nothing)' if path.is_symlink() else ''}") from None
    except IsADirectoryError:
        raise DataError(f"{path}: a folder, not an image") from None
    except PermissionError:
        raise DataError(f"{path}: permission denied; make it readable for this user") from None
    except UnidentifiedImageError:
        empty = path.stat().st_size == 0
        raise DataError(f"{path}: {'an empty file' if empty else 'not an image'}; replace or remove it") from None
    except Image.DecompressionBombError:
        raise DataError(f"{path}: more than {_MAX_PIXELS:,} pixels; cut it into tiles") from None
    except DataError:
        raise
    except Exception as error:  # Pillow's plugins raise whatever they meet in a damaged file
        raise DataError(f"{path}: unreadable or truncated ({error}); copy it again or remove it") from None


def _require_one_picture(image: Image.Image, path: Path) -> None:
    if image.width * image.height > _MAX_PIXELS:
        raise DataError(
            f"{path}: {image.height} x {image.width} is more than {_MAX_PIXELS:,} pixels; cut it into tiles"
        )
    # A camera's MPO holds the photo first and its preview after it.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        raise DataError(f"{path}: holds {image.n_frames} pictures (animated or multi-page); save one of them")


def _raw_mode(image: Image.Image) -> str:
    arguments = image.tile[0][3] if image.tile else ""
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image as RGB ``uint8[H, W, 3]`` (read-only), upright: its EXIF orientation is applied.

    Grey and palette images become RGB, CMYK is converted, transparency is dropped.

    Raises:
        DataError: missing, not an image, truncated, more than 8 bits a channel, or several pictures in one.
    """
    path = Path(path)
    image, stored = _open(path)
    if image.mode not in _IMAGE_MODES or "16" in stored:
        raise DataError(
            f"{path}: pixels of kind {stored or image.mode}; images have 8 bits a channel, so choose the range that "
            "matters and convert it"
        )
    orientation = 1
    with contextlib.suppress(Exception):  # damaged metadata of a good picture
        orientation = image.getexif().get(_ORIENTATION, 1)
    if orientation != 1:
        image = ImageOps.exif_transpose(image)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _open_label(path: Path) -> tuple[Image.Image, str]:
    image, stored = _open(path)
    if image.format not in _LABEL_FORMATS or image.info.get("compression") in ("jpeg", "webp"):
        raise DataError(
            f"{path}: a label map saved as {image.format}, whose compression changes values; save labels as PNG"
        )
    return image, stored


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a single-channel label map as ``uint8[H, W]``, or ``uint16`` for 16-bit files; palette indices stay indices.

    Raises:
        DataError: missing, truncated, lossy, not single-channel, or beyond 16 bits.
    """
    path = Path(path)
    image, stored = _open_label(path)
    if image.mode not in _LABEL_MODES:
        raise DataError(f"{path}: a label map has one channel of class ids, this file is {image.mode}; {_mend(image)}")
    labels = np.array(image)
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    few_bits = re.fullmatch(r"L;([24])", stored)
    if few_bits:  # Pillow stretches these greys to 0..255
        labels //= np.uint8(255 // (2 ** int(few_bits[1]) - 1))
    if labels.dtype not in (np.uint8, np.uint16):
        if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{path}: label values from {labels.min()} to {labels.max()} do not fit 16 bits")
        labels = labels.astype(np.uint16)
    return labels


def _mend(image: Image.Image) -> str:
    if image.mode == "RGB":
        red, green, blue = image.split()
        if red.tobytes() == green.tobytes() == blue.tobytes():
            return "its three channels are the same, so save one of them"
        return "if its colours stand for classes, say label_colors in the data set's file (docs/your-data.md)"
    return "save the channel that holds the ids"


def is_colored(path: str | os.PathLike) -> bool:
    """Whether a readable image file has colours, of its own or in a palette."""
    return _open(Path(path))[0].mode in ("RGB", "RGBA", "P")


def read_color_label(path: str | os.PathLike) -> np.ndarray:
    """Read a label map whose colours stand for classes as RGB ``uint8[H, W, 3]``.

    Raises:
        DataError: missing, truncated, lossy, not a picture of 8-bit colours, or partly transparent.
    """
    path = Path(path)
    image, _ = _open_label(path)
    if image.mode == "RGBA" and image.getchannel("A").getextrema() != (255, 255):
        raise DataError(f"{path}: partly transparent colours; save the label map without transparency")
    if image.mode not in ("RGB", "RGBA", "P"):
        raise DataError(
            f"{path}: the data set says label_colors, this file is {image.mode}; save colours as RGB, or drop that key"
        )
    return np.asarray(image.convert("RGB"))


def write_label(path: str | os.PathLike, labels: np.ndarray, palette: bytes | None = None) -> None:
    """Write ``labels`` (``uint8`` or ``uint16``, ``[H, W]``) as PNG, atomically; ``palette`` makes an indexed PNG."""
    image = Image.fromarray(labels)
    if palette is not None:
        image.putpalette(palette)
    write_image(path, image)


def write_image(path: str | os.PathLike, image: Image.Image | np.ndarray) -> None:
    """Write a PIL image or an RGB ``uint8[H, W, 3]`` array, atomically."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    with atomic_write(path) as temporary:
        image.save(temporary, compress_level=3)


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def list_files(folder: str | os.PathLike, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Files below ``folder`` with one of ``suffixes``, sorted; links are followed, hidden files are left out.

    Raises:
        DataError: the folder is missing, unreadable, or holds no such file; a link leads to nothing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = [Path(path) for path in sorted(_walk(str(folder), suffixes, set()))]
    if not files:
        raise DataError(f"{folder}: no file with a suffix of {', '.join(suffixes)}")
    return files


def _walk(folder: str, suffixes: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[str]:
    """Paths below ``folder``; a folder that links lead to again is read once."""
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        wanted = entry.name.lower().endswith(suffixes)
        try:
            is_dir, is_file = entry.is_dir(), wanted and entry.is_file()
        except OSError as error:  # a link to itself
            raise DataError(f"{entry.path}: cannot be read ({error.strerror}); mend or remove the link") from None
        if is_dir:
            yield from _walk(entry.path, suffixes, seen)
        elif is_file:
            yield entry.path
        elif wanted and entry.is_symlink():
            raise DataError(f"{entry.path}: a link to nothing; mend or remove it")


def index_files(paths: Iterable[Path], suffix: str = "") -> dict[str, Path]:
    """Files by ``sample_key``; ``suffix`` is what each name has after it.

    Raises:
        DataError: two files share a key, so that it is unclear which one is meant.
    """
    index: dict[str, Path] = {}
    for path in paths:
        name = path.with_name(path.stem.removesuffix(suffix) + path.suffix) if suffix else path
        other = index.setdefault(sample_key(name), path)
        if other != path:
            raise DataError(f"{other} and {path} have the same name; keep one")
    return index


def claim_folder(folder: str | os.PathLike, made_by: dict[str, Any], suffixes: tuple[str, ...]) -> set[str]:
    """Make ``folder`` the place of what ``made_by`` makes; returns the names of its files that can be kept.

    ``made_by`` is whatever decides the result (settings, a checkpoint's hash); it stands in ``made_by.json`` beside the
    files. Files that an interrupted call with the same one left are kept; those of another one are removed first, so
    that the two never mix.

    Raises:
        DataError: the folder holds files with one of ``suffixes`` that no such call wrote.
    """
    folder = Path(folder)
    record = folder / "made_by.json"
    made_by = json.loads(json.dumps(made_by))
    existing = {path for path in folder.glob("*") if path.suffix in suffixes and not path.name.startswith(".")}
    if existing and not record.exists():
        raise DataError(
            f"{folder}: holds files that this command did not write; choose another folder or move them away"
        )
    if existing and _read_json(record) != made_by:
        for path in existing:
            path.unlink()
        existing = set()
    write_json(record, made_by)
    return {path.name for path in existing}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None


def sample_key(path: str | os.PathLike) -> str:
    """The name under which an image, its label and its offset belong together.

    It is the file name without suffix; for Cityscapes names (``<city>_<6 digits>_<6 digits>_...``) the first three
    parts, so that ``_leftImg8bit``, ``_gtFine_labelIds`` and the like meet.
    """
    stem = Path(path).stem
    parts = stem.split("_")
    head = parts[1:_CITYSCAPES_KEY_PARTS]
    if len(head) == _CITYSCAPES_KEY_PARTS - 1 and all(len(part) == 6 and part.isdigit() for part in head):
        return "_".join(parts[:_CITYSCAPES_KEY_PARTS])
    return stem
