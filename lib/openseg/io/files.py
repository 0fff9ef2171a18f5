"""Listing, matching and writing files, safely.

Everything is written to a temporary file in the same folder and renamed: a reader never meets half a file, and an
interrupted writer leaves the previous content. What cannot be recomputed is fsynced before.
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
    """In this thread, ``function(path, temporary)`` is called before each ``atomic_write`` puts a file in its place."""
    token = _BEFORE_REPLACE.set(function)
    try:
        yield
    finally:
        _BEFORE_REPLACE.reset(token)


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any failure it is removed.

    ``durable`` waits until the disk has it. Without, a loss of power soon after may leave an empty file, which
    ``is_older`` takes for one to be written again; many small files are written several times faster.

    Raises:
        OpensegError: the folder cannot be written, or the disk is full. What stood at ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{short_stem(path)}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
    """The beginning of a file's name that leaves room for what a temporary one has beside it: names have 255 bytes."""
    text = path.stem[:80]
    while len(os.fsencode(text)) > 80:
        text = text[:-1]
    return text


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN becomes null."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(without_nan(value), indent=1) + "\n", encoding="utf-8")


def without_nan(value: Any) -> Any:
    """``value`` with None in place of NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def explain_start(path: Path) -> str:
    """What a file is instead of what it should be, where its first bytes make that plain; empty otherwise."""
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
    """SHA-256 of a file's content, in hexadecimal."""
    with open(path, "rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_older(made: Path, source: Path) -> bool:
    """Whether a made file is older than what it was made of, or empty (see ``atomic_write``)."""
    there = made.stat()
    return there.st_size == 0 or there.st_mtime < source.stat().st_mtime


_NOTICED: ContextVar[dict[str, None] | None] = ContextVar("noticed", default=None)


@contextlib.contextmanager
def noticing() -> Iterator[dict[str, None]]:
    """Collects the files that ``list_files`` left out, each of which was logged."""
    found: dict[str, None] = {}
    token = _NOTICED.set(found)
    try:
        yield found
    finally:
        _NOTICED.reset(token)


def notice(what: str) -> None:
    """Count something else that was left out, and logged, for ``noticing``."""
    found = _NOTICED.get()
    if found is not None:
        found[what] = None


def list_files(
    folder: str | os.PathLike,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    also: tuple[str, ...] = (),
    skip: Callable[[Path], bool] | None = None,
) -> list[Path]:
    """Files below ``folder`` with one of ``suffixes``, sorted; links are followed, hidden files are left out.

    Other files are logged and noticed (``noticing``), but for notes and tables that lie beside images everywhere.

    Args:
        also: suffixes of files that others read.
        skip: says of a folder that its files are none of ours.

    Raises:
        DataError: the folder is missing, unreadable, or holds no such file; a link leads to nothing.
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
    """Files below ``folder`` with one of ``suffixes``; links are followed, hidden files are left out.

    Raises:
        DataError: a folder cannot be read, or a link leads to nothing.
    """
    yield from _walk(os.fspath(folder), suffixes, set())


def _walk(
    folder: str, suffixes: tuple[str, ...], seen: set[tuple[int, int]], others_too: bool = False
) -> Iterator[str]:
    """``walk_files``, or all files; a folder that links lead to again is read once."""
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
