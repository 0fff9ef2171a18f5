"""What every preparation program does with the files that it found: match them, and write or link them into place."""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openseg.errors import DataError
from openseg.io.files import atomic_write, is_older
from openseg.io.images import write_label
from openseg.io.parallel import map_parallel
from openseg.io.results import exclusive_folder
from openseg.tools.prepare.archives import Entry

__all__ = ["PreparedSplit", "Source", "Tree", "find", "merge", "place"]


@dataclass(frozen=True)
class Source:
    """Where the content of a prepared file comes from: an entry as it is, what ``convert`` makes of its bytes, or
    ``values`` that were read of it.
    """

    entry: Entry
    suffix: str
    convert: Callable[[bytes], np.ndarray] | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True)
class PreparedSplit:
    """A prepared split: its folder, its samples, their kinds of files, and how many files were written now."""

    split: str
    folder: Path
    samples: int
    kinds: tuple[str, ...]
    written: int


Tree = dict[str, dict[str, dict[str, Source]]]
"""split -> kind (``image``, ``label``, ``instance``) -> name without suffix -> source."""


def find(
    entries: Iterable[Entry],
    pattern: str,
    kind: str,
    name: str = "{stem}",
    splits: Mapping[str, str] | None = None,
    convert: Callable[[bytes], np.ndarray] | None = None,
) -> Tree:
    """The entries whose path ends in ``pattern``, or is it where that begins with ``^``.

    Its groups are ``stem``, ``suffix`` and perhaps ``split``.

    Args:
        name: of the prepared file, in terms of the groups.
        splits: our name of each split of the release; without a group ``split`` all are in ``""``.
    """
    expression = re.compile(f"{pattern}$" if pattern.startswith("^") else f"(?:^|/){pattern}$")
    tree: Tree = {}
    for entry in entries:
        match = expression.search(entry.name)
        if match is None and entry.root:  # the folder that was given may be one of the release itself
            match = expression.search(f"{entry.root}/{entry.name}")
        if match is None:
            continue
        groups = {"split": "", **match.groupdict()}
        split = groups["split"] if splits is None else splits[groups["split"]]
        suffix = ".png" if convert else groups["suffix"].lower()
        found = tree.setdefault(split, {}).setdefault(kind, {})
        found.setdefault(name.format(**groups), Source(entry, suffix, convert))  # unpacked files come first
    return tree


def merge(*trees: Tree) -> Tree:
    """One tree of several."""
    merged: Tree = {}
    for tree in trees:
        for split, kinds in tree.items():
            for kind, sources in kinds.items():
                merged.setdefault(split, {}).setdefault(kind, {}).update(sources)
    return merged


def place(tree: Tree, folder: Path, link: bool, limit: int | None, workers: int) -> list[PreparedSplit]:
    """Write a tree as ``<folder>/<split>/<kind>/<name>``; what already exists and not older stays.

    Raises:
        DataError: an image has no label or the other way round, or a split that was asked for is not there.
    """
    for split, kinds in tree.items():
        _require_partners(split, kinds, folder)
    placed = []
    for split, kinds in tree.items():
        names = sorted(next(iter(kinds.values())))[:limit]
        jobs = [
            (sources[name], folder / split / kind / f"{name}{sources[name].suffix}")
            for kind, sources in kinds.items()
            for name in names
        ]
        with exclusive_folder(folder / split):
            written = sum(map_parallel(functools.partial(_write, link=link), jobs, f"{folder.name} {split}", workers))
        placed.append(PreparedSplit(split, folder / split, len(names), tuple(kinds), written))
    return placed


def _require_partners(split: str, kinds: dict[str, dict[str, Source]], folder: Path) -> None:
    """Images of a split other than test have labels, here or prepared before, and the other way round."""
    present = [kind for kind, sources in kinds.items() if sources]
    if not present:
        raise DataError(f"{split}: not in the release; pass its archives too")
    for kind, other in (("image", "label"), ("label", "image")):
        is_alone = kind in present and other not in present and not (folder / split / other).is_dir()
        if is_alone and split != "test":
            raise DataError(f"{split}: the release has {kind}s but no {other}s; pass the archive with {other}s too")
    for kind, sources in kinds.items():
        for other, partners in kinds.items():
            alone = sorted(set(sources) - set(partners))
            if alone:
                raise DataError(
                    f"{split}: {len(alone)} of {len(sources)} {kind}s have no {other}, such as {alone[0]} "
                    f"({sources[alone[0]].entry.path}); the release is incomplete, download or unpack it again"
                )


def _write(job: tuple[Source, Path], link: bool) -> bool:
    """Make one file; False where it already exists."""
    source, target = job
    entry = source.entry
    if target.exists() and not is_older(target, entry.path):
        is_copy = source.convert is None and source.values is None
        if not is_copy or target.stat().st_size == entry.size:
            return False
    if source.values is not None:
        write_label(target, source.values)
        return True
    if source.convert is not None:
        try:
            labels = source.convert(entry.read())
        except DataError:
            raise
        except Exception as error:  # the parsers raise whatever they meet in a damaged file
            raise DataError(f"{entry.path}: {entry.name} is damaged ({error}); download it again") from None
        write_label(target, labels)
        return True
    if link and entry.is_file and _linked(entry.path, target):
        return True
    content = entry.read()
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)
    return True


def _linked(path: Path, target: Path) -> bool:
    """Hard-link; False where that cannot be, such as from another disk."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        temporary.hardlink_to(path.resolve())
        temporary.replace(target)
    except OSError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True
