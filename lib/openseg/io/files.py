"""Listing, matching and writing files, safely.

Files are written to a temporary file in the same folder and renamed: readers never see a partial file, and an
interrupted writer leaves the previous content. Content that cannot be recomputed is fsynced first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import uuid
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from openseg.errors import DataError, OpensegError
from openseg.io.blob import HeldFile

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "atomic_write",
    "before_replace",
    "explain_start",
    "file_hash",
    "is_older",
    "list_files",
    "notice",
    "noticing",
    "short_stem",
    "walk_files",
    "without_nan",
    "write_json",
]

logger = logging.getLogger("openseg")

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm"),
)
"""What is an image, for every command."""
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp", ".gif", ".pgm")
"""What is a label map, for every command: the formats among them that lose nothing."""
_GEO = (".tfw", ".jgw", ".pgw", ".wld", ".prj", ".ovr", ".aux")
_NOTES = (
    *_GEO,
    ".txt",
    ".json",
    ".xml",
    ".csv",
    ".md",
    ".html",
    ".js",
    ".log",
    ".yaml",
    ".yml",
    ".ini",
    ".db",
    ".jsonl",
)
_NAMED = 3


_BEFORE_REPLACE: ContextVar[Callable[[Path, Path], None] | None] = ContextVar("before_replace", default=None)


@contextlib.contextmanager
def before_replace(function: Callable[[Path, Path], None]) -> Iterator[None]:
    """Context in which each ``atomic_write`` of this thread calls ``function(path, temporary)`` before its rename."""
    token = _BEFORE_REPLACE.set(function)
    try:
        yield
    finally:
        _BEFORE_REPLACE.reset(token)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = True, folder: Path | None = None) -> Iterator[Path]:
    """Yield a temporary path in ``folder``; on success it replaces ``path``, on any failure it is removed.

    ``folder`` is on the same file system; None is that of ``path``.

    ``durable`` calls fsync. Without it, a power loss soon after may leave an empty file, which ``is_older`` reports as
    outdated; many small files are written several times faster.

    Raises:
        OpensegError: the folder is not writable, or the disk is full. An existing ``path`` is unchanged.
    """
    path = Path(path)
    temporary = (folder or path.parent) / f".{short_stem(path)}.{uuid.uuid4().hex[:8]}.part{path.suffix}"
    try:
        for each in {path.parent, temporary.parent}:
            each.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        function = _BEFORE_REPLACE.get()
        if function is not None:
            function(path, temporary)
        os.replace(temporary, path)
    except UnicodeEncodeError as error:
        raise OpensegError(f"cannot write {path}: its name cannot be written on this file system ({error})") from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        fix = "free some space" if full else "check the path and its permissions"
        raise OpensegError(f"cannot write {path}: {error.strerror or error}; {fix} and run again") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def short_stem(path: Path) -> str:
    """Shorten a file name so that the temporary file's name stays within 255 bytes."""
    text = path.stem[:80]
    while len(os.fsencode(text)) > 80:
        text = text[:-1]
    return text


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(without_nan(value), indent=1) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """Replace NaN and infinity, which JSON does not support, by None."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def explain_start(path: Path | HeldFile) -> str:
    """Describe a file of another kind by its first bytes; empty if not recognized."""
    try:
        with path.open("rb") as file:
            start = file.read(200).lstrip().lower()
    except OSError:
        return ""
    if start.startswith((b"<!doctype", b"<html")):
        return "is a web page, such as a download service shows instead of the file; download it again"
    if start.startswith(b"version https://git-lfs"):
        return "is a Git LFS pointer, not the file itself; run git lfs pull where it came from"
    return ""


def file_hash(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_older(made: Path, source: Path) -> bool:
    """Whether a derived file is older than its source, or empty (see ``atomic_write``)."""
    there = made.stat()
    return there.st_size == 0 or there.st_mtime < source.stat().st_mtime


_NOTICED: ContextVar[dict[str, None] | None] = ContextVar("noticed", default=None)


@contextlib.contextmanager
def noticing() -> Iterator[dict[str, None]]:
    """Context that collects the files left out (and logged) by ``list_files``."""
    found: dict[str, None] = {}
    token = _NOTICED.set(found)
    try:
        yield found
    finally:
        _NOTICED.reset(token)


def notice(what: str) -> None:
    """Add a file that was left out and logged to ``noticing``."""
    found = _NOTICED.get()
    if found is not None:
        found[what] = None


def list_files(
    folder: str | os.PathLike,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    also: tuple[str, ...] = (),
    skip: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """List files below ``folder`` with one of ``suffixes``, sorted; follows links, skips hidden files.

    Other files are logged and noticed (``noticing``), except common side files such as notes and tables.

    Args:
        also: suffixes of files that are read elsewhere.
        skip: whether a folder is to be skipped.

    Raises:
        DataError: the folder is missing, unreadable or without such files; a broken symlink.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files: list[Path] = []
    others: list[Path] = []
    for path in map(Path, _walk(os.fspath(folder), suffixes, set(), others_too=True)):
        if skip is None or not skip(path.parent):
            (files if path.name.lower().endswith(suffixes) else others).append(path)
    files.sort()
    left = [path for path in others if not path.name.lower().endswith((*also, *_NOTES))]
    if not files:
        held = f"; it holds {_some(left or others)}" if others else ""
        raise DataError(f"{folder}: no file with a suffix of {', '.join(suffixes)}{held}")
    noticed = _NOTICED.get()
    new = left if noticed is None else [path for path in left if str(path) not in noticed]
    if new:
        logger.warning("%s: skipped, not one of %s: %s", folder, ", ".join(suffixes), _some(new))
    if noticed is not None:
        noticed.update(dict.fromkeys(map(str, new)))
    return files


def _some(paths: list[Path]) -> str:
    more = f" and {len(paths) - _NAMED} more" if len(paths) > _NAMED else ""
    return ", ".join(path.name for path in paths[:_NAMED]) + more


def walk_files(folder: str | os.PathLike, suffixes: tuple[str, ...] = ("",)) -> Iterator[str]:
    """Yield files below ``folder`` with one of ``suffixes``; follows links, skips hidden files.

    Raises:
        DataError: an unreadable folder or a broken symlink.
    """
    yield from _walk(os.fspath(folder), suffixes, set())


def _walk(
    folder: str, suffixes: tuple[str, ...], seen: set[tuple[int, int]], others_too: bool = False
) -> Iterator[str]:
    """Walk files below a folder; folders reached again through links are read once."""
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
            is_dir, is_file = entry.is_dir(), (wanted or others_too) and entry.is_file()
        except OSError as error:  # a link to itself
            raise DataError(f"{entry.path}: cannot be read ({error.strerror}); fix or remove the link") from None
        if is_dir:
            yield from _walk(entry.path, suffixes, seen, others_too)
        elif is_file:
            yield entry.path
        elif wanted and entry.is_symlink():
            raise DataError(f"{entry.path}: a broken symlink; fix or remove it")
