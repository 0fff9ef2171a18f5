"""Image and label files of a split: ``<data root>/<dataset>/<split>/{image,label}``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from openseg.config import Experiment
from openseg.errors import DataError
from openseg.files import IMAGE_SUFFIXES, index_files, list_files

__all__ = ["Pair", "list_images", "list_pairs", "list_split", "pair_files"]


@dataclass(frozen=True)
class Pair:
    """One sample: its key, its image, its label map and, for SegFix, its ground truth."""

    key: str
    image: Path
    label: Path
    targets: Path | None = None


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


def list_images(folder: str | os.PathLike) -> list[Path]:
    """The images of a split (``<split>/image``) or of any folder, also below it (Cityscapes has one for each city).

    Raises:
        DataError: no folder, no images, two of one name, or a split that has labels but no ``image`` folder.
    """
    folder = Path(folder)
    images = folder / "image"
    if not images.is_dir():
        if not folder.is_dir() or (folder / "label").is_dir():
            raise DataError(f"{images}: no such folder; put the images there")
        images = folder
    return sorted(index_files(list_files(images, IMAGE_SUFFIXES)).values())


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


def list_split(experiment: Experiment, split: str) -> list[Pair]:
    """The samples that an experiment reads of ``split``, or of several joined by ``+``; see ``list_pairs``.

    Raises:
        DataError: also where SegFix ground truth is missing; the message says how to make it.
    """
    pairs: list[Pair] = []
    for name in split.split("+"):
        folder = experiment.data_dir / name
        found = list_pairs(folder)
        pairs += _with_targets(experiment, name, found) if experiment.task == "segfix" else found
    return pairs


def _with_targets(experiment: Experiment, split: str, pairs: list[Pair]) -> list[Pair]:
    folder = experiment.data_dir / split / experiment.data.offset_gt
    pairs = [replace(pair, targets=folder / f"{pair.label.stem}.mat") for pair in pairs]
    missing = [pair.label.stem for pair in pairs if pair.targets is None or not pair.targets.is_file()]
    if missing:
        program = "instance_dt_offset_generator" if "_inst" in experiment.data.offset_gt else "dt_offset_generator"
        raise DataError(
            f"{folder}: no SegFix ground truth of {len(missing)} of {len(pairs)} labels ({missing[0]}); make it with "
            f"python lib/datasets/preprocess/cityscapes/{program}.py --datadir {experiment.data_dir} "
            f"--split {split} --dataset {experiment.data.dataset}"
        )
    return pairs
