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
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from openseg.errors import DataError, OpensegError

__all__ = [
    "IMAGE_SUFFIXES",
    "atomic_write",
    "claim_folder",
    "file_hash",
    "index_files",
    "list_files",
    "read_image",
    "read_label",
    "sample_key",
    "write_image",
    "write_json",
    "write_label",
]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_LABEL_MODES = ("L", "P", "1", "I;16", "I")
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


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
        return image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: not an image; replace or remove it") from None
    except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: unreadable or truncated ({error}); copy it again or remove it") from None


def read_image(path: str | os.PathLike) -> np.ndarray:
    """Read an image as RGB ``uint8[H, W, 3]``.

    Raises:
        DataError: missing, not an image, or truncated.
    """
    return np.array(_open(Path(path)).convert("RGB"))


def read_label(path: str | os.PathLike) -> np.ndarray:
    """Read a single-channel label map as ``uint8[H, W]``, or ``uint16`` for 16-bit files; palette indices stay indices.

    Raises:
        DataError: missing, truncated, not single-channel, or beyond 16 bits.
    """
    path = Path(path)
    image = _open(path)
    if image.mode not in _LABEL_MODES:
        raise DataError(
            f"{path}: a label map has one channel of class ids, this file is {image.mode}; "
            "convert its colours to ids first"
        )
    labels = np.array(image)
    if labels.dtype == np.bool_:
        return labels.astype(np.uint8)
    if labels.dtype not in (np.uint8, np.uint16):
        if labels.min() < 0 or labels.max() > np.iinfo(np.uint16).max:
            raise DataError(f"{path}: label values from {labels.min()} to {labels.max()} do not fit 16 bits")
        labels = labels.astype(np.uint16)
    return labels


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
    """Files below ``folder`` with one of ``suffixes``, sorted by relative path; hidden files are left out.

    Raises:
        DataError: the folder is missing or holds no such file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()
    )
    if not files:
        raise DataError(f"{folder}: no file with a suffix of {', '.join(suffixes)}")
    return files


def index_files(paths: Iterable[Path]) -> dict[str, Path]:
    """Files by ``sample_key``.

    Raises:
        DataError: two files share a key, so that it is unclear which one is meant.
    """
    index: dict[str, Path] = {}
    for path in paths:
        other = index.setdefault(sample_key(path), path)
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
