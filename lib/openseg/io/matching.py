"""Which files belong to the same sample."""

from __future__ import annotations

import collections
import os
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from openseg.errors import DataError

__all__ = ["index_files", "match_files", "sample_key"]

# <city>_<sequence>_<frame> of Cityscapes, whatever follows it (_leftImg8bit, _gtFine_labelIds, ...).
_CITYSCAPES_KEY_PARTS = 3


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
