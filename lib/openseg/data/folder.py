"""Image and label files of a split: ``<data root>/<dataset>/<split>/{image,label}``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from openseg.errors import DataError
from openseg.files import IMAGE_SUFFIXES, list_files, sample_key

__all__ = ["Pair", "index_files", "list_images", "list_pairs", "pair_files"]


@dataclass(frozen=True)
class Pair:
    """One sample: its key, its image, and its label map."""

    key: str
    image: Path
    label: Path


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


def pair_files(wanted: Iterable[Path], others: Iterable[Path], what: str) -> dict[str, tuple[Path, Path]]:
    """Each file of ``wanted`` with the one of ``others`` that shares its key.

    Raises:
        DataError: a file has no partner; ``what`` names what is missing.
    """
    wanted_index, index = index_files(wanted), index_files(others)
    missing = [path for key, path in wanted_index.items() if key not in index]
    if missing:
        names = ", ".join(path.name for path in missing[:3])
        example = next(iter(index.values()), None)
        raise DataError(
            f"{len(missing)} of {len(wanted_index)} files below {missing[0].parent} have no {what} ({names}"
            f"{', ...' if len(missing) > 3 else ''}); a pair shares its name, and the {what}s look like {example}"
        )
    return {key: (path, index[key]) for key, path in wanted_index.items()}


def list_images(split_dir: str | os.PathLike) -> list[Path]:
    """The images of a split (Cityscapes' test split has city folders; they are walked)."""
    return list_files(Path(split_dir) / "image" if (Path(split_dir) / "image").is_dir() else split_dir, IMAGE_SUFFIXES)


def list_pairs(split_dir: str | os.PathLike) -> list[Pair]:
    """All samples of a split, sorted by name.

    Raises:
        DataError: a folder is missing or empty, or an image has no label.
    """
    split_dir = Path(split_dir)
    for folder in (split_dir / "image", split_dir / "label"):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; a data set is laid out as <data root>/<dataset>/<split>/{{image,label}}, "
                "see lib/datasets/preprocess/"
            )
    images = list_files(split_dir / "image", IMAGE_SUFFIXES)
    labels = list_files(split_dir / "label", IMAGE_SUFFIXES)
    pairs = pair_files(images, labels, "label")
    return [Pair(key, image, label) for key, (image, label) in sorted(pairs.items())]
