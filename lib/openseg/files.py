"""Listing, matching and writing files, safely.

Everything is written to a temporary file in the same folder and renamed: a reader never meets half a file, and an
interrupted writer leaves the previous content. What cannot be made again is fsynced before.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import hashlib
import json
import logging
import math
import os
import re
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from openseg.errors import DataError, OpensegError

__all__ = [
    "IMAGE_SUFFIXES",
    "LABEL_SUFFIXES",
    "RECORD",
    "atomic_write",
    "claim_folder",
    "file_hash",
    "index_files",
    "is_older",
    "list_files",
    "list_given",
    "match_files",
    "sample_key",
    "walk_files",
    "without_nan",
    "write_json",
]

logger = logging.getLogger("openseg")

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
LABEL_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")
RECORD = "made_by.json"
"""What decided the files of a folder that ``claim_folder`` made."""
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?$")  # of atomic_write
# <city>_<sequence>_<frame> of Cityscapes, whatever follows it (_leftImg8bit, _gtFine_labelIds, ...).
_CITYSCAPES_KEY_PARTS = 3


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on any failure it is removed.

    ``durable`` waits until the disk has it. Without, a loss of power soon after may leave an empty file, which
    ``is_older`` takes for one that is to be made again; many small files are written several times faster.

    Raises:
        OpensegError: the folder cannot be written, or the disk is full. What stood at ``path`` is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem[:80]}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
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


def list_files(folder: str | os.PathLike, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[Path]:
    """Files below ``folder`` with one of ``suffixes``, sorted; links are followed, hidden files are left out.

    Raises:
        DataError: the folder is missing, unreadable, or holds no such file; a link leads to nothing.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = [Path(path) for path in sorted(walk_files(folder, suffixes))]
    if not files:
        raise DataError(f"{folder}: no file with a suffix of {', '.join(suffixes)}")
    return files


def list_given(folder: str | os.PathLike, suffixes: tuple[str, ...]) -> list[Path]:
    """As ``list_files``, without what ``claim_folder`` made in folders below, such as refined labels.

    Raises:
        DataError: nothing else is there.
    """
    folder = Path(folder)
    made = {folder: False}

    def is_made(place: Path) -> bool:
        if place not in made:
            results = place.with_name(place.name.removesuffix("_figures"))
            made[place] = (results / RECORD).is_file() or is_made(place.parent)
        return made[place]

    given = [path for path in list_files(folder, suffixes) if not is_made(path.parent)]
    if not given:
        raise DataError(f"{folder}: holds nothing besides what this program made of it")
    return given


def walk_files(folder: str | os.PathLike, suffixes: tuple[str, ...] = ("",)) -> Iterator[str]:
    """Files below ``folder`` with one of ``suffixes``; links are followed, hidden files are left out.

    Raises:
        DataError: a folder cannot be read, or a link leads to nothing.
    """
    yield from _walk(os.fspath(folder), suffixes, set())


def _walk(folder: str, suffixes: tuple[str, ...], seen: set[tuple[int, int]]) -> Iterator[str]:
    """``walk_files``; a folder that links lead to again is read once."""
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


def match_files(sources: Sequence[str], others: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """The one of ``others`` that belongs to each of ``sources``, both paths relative to their folders.

    That is the one with the same path, suffixes aside; else the only one with the same ``sample_key``, if no other
    source has it too: files of one name in two folders are never taken for each other.

    Returns:
        Matches, and those sources that have none.
    """
    by_path = {PurePosixPath(name).with_suffix(""): name for name in others}
    by_key: dict[str, list[str]] = {}
    for name in others:
        by_key.setdefault(sample_key(name), []).append(name)
    counts = collections.Counter(sample_key(name) for name in sources)
    matches, missing = {}, []
    for name in sources:
        same, key = by_path.get(PurePosixPath(name).with_suffix("")), sample_key(name)
        if same is not None:
            matches[name] = same
        elif counts[key] == 1 and len(by_key.get(key, ())) == 1:
            matches[name] = by_key[key][0]
        else:
            missing.append(name)
    return matches, missing


def claim_folder(
    folder: str | os.PathLike,
    made_by: dict[str, Any],
    suffixes: tuple[str, ...],
    kinds: Sequence[str] = ("",),
    others: Literal["replace", "refuse", "overwrite"] = "replace",
) -> dict[str, set[str]]:
    """Make ``folder`` the place of what ``made_by`` makes; returns its files that can be kept, by kind.

    ``made_by`` is whatever decides the result (settings, a checkpoint's hash); it stands in ``made_by.json`` in the
    folder. Files that an interrupted call with the same one left are kept. What a killed call had not finished is
    removed.

    Args:
        made_by: ``what`` in it names what is made, such as offsets; a folder of something else is never touched.
        kinds: folders inside it that hold the files; an empty one is the folder itself.
        others: what becomes of files that another ``made_by`` made: ``replace`` removes them first, so that the two
            never mix; ``refuse`` raises. ``overwrite`` removes those of the same one too.

    Raises:
        DataError: the folder holds files with one of ``suffixes`` that no such call wrote, or one with another
            ``made_by`` that is to be refused.
    """
    folder = Path(folder)
    record = folder / RECORD
    made_by = json.loads(json.dumps(made_by))
    existing, unfinished = _made_files(folder, suffixes, kinds)
    before = _read_json(record) if record.exists() else None
    other = isinstance(before, dict) and before.get("what") != made_by.get("what")
    if other or (any(existing.values()) and not record.exists()):
        raise DataError(
            f"{folder}: holds files that this command did not write; choose another folder or move them away"
        )
    if any(existing.values()) and before != made_by and others == "refuse":
        raise DataError(
            f"{folder}: holds results of other inputs, settings or weights; choose another folder, or --overwrite"
        )
    for path in unfinished:
        path.unlink(missing_ok=True)
    if before != made_by or others == "overwrite":
        if any(existing.values()):
            logger.info("%s: what is there is replaced", folder)
        for kind, names in existing.items():
            for name in names:
                (folder / kind / name).unlink()
        existing = {kind: set() for kind in kinds}
    write_json(record, made_by)
    return existing


def _made_files(
    folder: Path, suffixes: tuple[str, ...], kinds: Sequence[str]
) -> tuple[dict[str, set[str]], list[Path]]:
    """Finished files by kind, relative to its folder, and those that a killed ``atomic_write`` left."""
    existing: dict[str, set[str]] = {kind: set() for kind in kinds}
    unfinished = []
    for kind in {"", *kinds}:
        base = folder / kind
        for path in base.rglob("*") if kind else base.glob("*"):
            if path.name.startswith("."):
                if _UNFINISHED.search(path.name) and path.is_file():
                    unfinished.append(path)
            elif kind in existing and path.suffix.lower() in suffixes:
                existing[kind].add(path.relative_to(base).as_posix())
    return existing, unfinished


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
