"""Matching of files that belong to the same sample: one rule for all commands.

Files of the same sample have the same name without suffix. Only known endings are ignored: those of Cityscapes
(``_leftImg8bit``, ``_gtFine_labelIds``, ...) after city, sequence and frame, ``_pred`` of predictions, and those of the
dataset file (``image_suffix``, ``label_suffix``, prefixes). Names that differ otherwise, such as those of a left and a
right camera, are different samples.
"""

from __future__ import annotations

import collections
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from openseg.errors import DataError

__all__ = ["index_files", "match_files", "sample_key", "slashed"]

_FRAME = re.compile(r"(?P<key>[^_]+_\d{6}_\d{6})(?P<ending>_.+)?")
_KINDS = ("labelIds", "labelTrainIds", "instanceIds", "instanceTrainIds", "color", "polygons", "labels")
_ENDINGS = re.compile(
    rf"(_leftImg8bit)?(_blurred)?(_(gtFine|gtCoarse))?(_({'|'.join(_KINDS)}))?(_(pred|prediction|refined))?"
)


def sample_key(path: str | os.PathLike[str]) -> str:
    """Return the key that an image, its label and its offset share.

    It is the file name without suffix; for Cityscapes names (``<city>_<6 digits>_<6 digits>`` and a known ending)
    without the ending.
    """
    stem = unicodedata.normalize("NFC", Path(path).stem)  # macOS archives store decomposed accents
    match = _FRAME.fullmatch(stem)
    return match["key"] if match and _ENDINGS.fullmatch(match["ending"] or "") else stem


def index_files(paths: Iterable[Path], suffix: str = "", prefix: str = "") -> dict[str, Path]:
    """Return files by ``sample_key``; ``suffix`` and ``prefix`` are removed from each name first.

    Raises:
        DataError: two files share a key.
    """
    index: dict[str, Path] = {}
    for path in paths:
        stem = path.stem.removesuffix(suffix).removeprefix(prefix)
        other = index.setdefault(sample_key(f"{stem}{path.suffix}"), path)
        if other != path:
            raise DataError(f"{other} and {path} have the same name; keep one")
    return index


def match_files(sources: Sequence[str], others: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return the file of ``others`` that belongs to each of ``sources`` (both relative to their folders).

    That is the one with the same path, suffixes aside; else the only one with the same ``sample_key``, if no other
    source has it too: files of one name in two folders are never taken for each other.

    Returns:
        Matches, and sources without a match.
    """
    by_path = {_path_key(name): name for name in others}
    by_key: dict[str, list[str]] = {}
    for name in others:
        by_key.setdefault(sample_key(name), []).append(name)
    counts = collections.Counter(sample_key(name) for name in sources)
    matches, missing = {}, []
    for name in sources:
        same, key = by_path.get(_path_key(name)), sample_key(name)
        if same is not None:
            matches[name] = same
        elif counts[key] == 1 and len(by_key.get(key, ())) == 1:
            matches[name] = by_key[key][0]
        else:
            missing.append(name)
    return matches, missing


def slashed(path: Path) -> Path:
    """Return ``path``, or, if it does not exist, the path with slashes for backslashes (lists written on Windows)."""
    if "\\" in str(path) and not path.exists():
        other = Path(str(path).replace("\\", "/"))
        return other if other.exists() else path
    return path


def _path_key(name: str) -> PurePosixPath:
    return PurePosixPath(unicodedata.normalize("NFC", name)).with_suffix("")
