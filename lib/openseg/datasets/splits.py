"""Image and label files of a split: ``<data root>/<dataset>/<split>/{image,label}``, or as its YAML file states."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from openseg.datasets.info import DatasetInfo, SplitFiles
from openseg.errors import DataError, nearest_names
from openseg.io.files import IMAGE_SUFFIXES, LABEL_SUFFIXES, list_files
from openseg.io.matching import index_files, sample_key, slashed
from openseg.io.sources import Source

__all__ = [
    "Pair",
    "SplitPaths",
    "list_images",
    "list_labels",
    "list_pairs",
    "list_truths",
    "match_labels",
    "pair_files",
    "require_partners",
    "split_paths",
    "unmatched",
]

logger = logging.getLogger("openseg")

_SUGGESTION_POOL = 20_000
_SUGGESTED = 20


@dataclass(frozen=True)
class Pair:
    """One sample: its key, image and label map; for SegFix its ground truth file, or its instance map.

    ``prediction`` is a model's label map, for a refiner. Image and label of a split of shards are files inside a
    container, which read like paths (``io.blob.HeldFile``).
    """

    key: str
    image: Path
    label: Path
    targets: Path | None = None
    instance: Path | None = None
    prediction: Path | None = None


@dataclass(frozen=True)
class SplitPaths:
    """Paths of a split; ``folder`` holds derived files, such as SegFix ground truth.

    ``named``: the dataset file names the ``image`` folder; affixes are (prefix, suffix) of names.
    """

    folder: Path
    image: Path
    label: Path
    instance: Path
    list_file: Path | None = None
    named: bool = False
    shards: str | None = None
    image_affixes: tuple[str, str] = ("", "")
    label_affixes: tuple[str, str] = ("", "")

    @property
    def is_path_list(self) -> bool:
        """The list holds paths; otherwise it holds names of the images in ``image``, or there is none."""
        return self.list_file is not None and not self.named

    @property
    def names_differ(self) -> bool:
        """An image and its label have different names."""
        return self.is_path_list or self.shards is not None or self.image_affixes != self.label_affixes

    def rows(self, columns: int) -> list[list[Path]]:
        """Image and label paths of a path list."""
        return _listed_paths(self.list_file or Path(), self.folder.parent, columns)


def split_paths(info: DatasetInfo, data_dir: Path, split: str) -> SplitPaths:
    """Return the paths of ``split``.

    Raises:
        DataError: the dataset file lists its splits, and this is not one of them.
    """
    if info.splits and split not in info.splits:
        raise DataError(f"{info.name} has no split '{split}'; {nearest_names(split, info.splits)}")
    files = info.splits.get(split, SplitFiles())
    return SplitPaths(
        folder=data_dir / split,
        image=data_dir / (files.image or f"{split}/image"),
        label=data_dir / (files.label or f"{split}/label"),
        instance=data_dir / (files.instance or f"{split}/instance"),
        list_file=None if files.list is None else data_dir / files.list,
        named=files.image is not None,
        shards=_shards(files.shards, data_dir),
        image_affixes=(files.image_prefix, files.image_suffix),
        label_affixes=(files.label_prefix, files.label_suffix),
    )


def _shards(given: str | None, data_dir: Path) -> str | None:
    return given if given is None or "://" in given else str(data_dir / given)


def _pairs_in_shards(address: str) -> list[Pair]:
    """All samples of container files, in their order, so that any of them can be read at any time.

    Raises:
        DataError: none, a sample without a label, or two of one name.
    """
    images, labels = Source(address, "image"), Source(address, "label")
    if images.kind == "files":
        raise DataError(f"{address}: shards are .tar or .parquet files, such as train-*.tar")
    members = {found.name: labels.member(found) for found in labels}
    pairs: dict[str, Pair] = {}
    for found in images:
        if found.name not in members:
            raise DataError(f"{address}: sample {found.name} has an image and no label")
        if found.name in pairs:
            raise DataError(f"{pairs[found.name].image} and {images.member(found)} have the same name; keep one")
        image, label = (cast(Path, each) for each in (images.member(found), members[found.name]))
        pairs[found.name] = Pair(found.name, image, label)
    if not pairs:
        raise DataError(f"{address}: no sample in it")
    return [*pairs.values()]


def _outside(files: list[Path], folder: Path, other: Path) -> list[Path]:
    """``files`` of ``folder`` that are not in ``other``, which may lie inside it."""
    if folder == other or not other.is_relative_to(folder):
        return files
    return [path for path in files if not path.is_relative_to(other)]


def _share_a_folder(paths: SplitPaths) -> bool:
    """``a.jpg`` and ``a.png``: then the suffix tells which is the label."""
    return paths.image == paths.label and paths.image_affixes == paths.label_affixes


def _others(paths: SplitPaths) -> tuple[str, ...]:
    """Suffixes of images, where labels and images share a folder."""
    nested = paths.image.is_relative_to(paths.label) or paths.label.is_relative_to(paths.image)
    return IMAGE_SUFFIXES if nested else ()


def _has(path: Path, affixes: tuple[str, str]) -> bool:
    return path.stem.startswith(affixes[0]) and path.stem.endswith(affixes[1])


def _index(files: Iterable[Path], affixes: tuple[str, str]) -> dict[str, Path]:
    """Files by the name of their sample; names without the affixes are left out."""
    return index_files((path for path in files if _has(path, affixes)), prefix=affixes[0], suffix=affixes[1])


def _labels(paths: SplitPaths) -> dict[str, Path]:
    """Labels by the keys of their images."""
    suffixes = LABEL_SUFFIXES if _share_a_folder(paths) else IMAGE_SUFFIXES
    files = _outside(list_files(paths.label, suffixes, _others(paths)), paths.label, paths.image)
    if paths.image == paths.label and not any(paths.label_affixes):
        files = [path for path in files if not any(paths.image_affixes) or not _has(path, paths.image_affixes)]
    return _index(files, paths.label_affixes)


def _images(paths: SplitPaths) -> dict[str, Path]:
    """Images by key, also those in sub-folders (Cityscapes has one for each city)."""
    if not paths.image.is_dir():
        raise DataError(f"{paths.image}: no such folder; put the images there")
    suffixes = tuple(set(IMAGE_SUFFIXES) - set(LABEL_SUFFIXES)) if _share_a_folder(paths) else IMAGE_SUFFIXES
    images = _outside(list_files(paths.image, suffixes, _others(paths)), paths.image, paths.label)
    if paths.image == paths.label and any(paths.label_affixes):
        images = [path for path in images if not _has(path, paths.label_affixes)]
    index = _index(images, paths.image_affixes)
    if paths.list_file is None:
        return index
    return {key: index[key] for key in _listed_keys(paths.list_file, index, paths.image_affixes)}


def _read_list(path: Path) -> list[tuple[int, str]]:
    """(line number, line) of a list file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot read the list of the split ({error})") from None
    rows = [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
    if not rows:
        raise DataError(f"{path}: an empty list")
    return rows


def _listed_keys(path: Path, index: Mapping[str, Path], affixes: tuple[str, str]) -> list[str]:
    """Keys of the names in a list file."""
    keys: dict[str, int] = {}
    for number, name in _read_list(path):
        if name not in index and "\\" in name:
            name = name.replace("\\", "/")
        stem = Path(name).stem if name.lower().endswith(IMAGE_SUFFIXES) else Path(name).name
        key = sample_key(f"{stem.removeprefix(affixes[0]).removesuffix(affixes[1])}.png")
        if key not in index:
            raise DataError(f"{path}, line {number}: no image '{name}'; {_nearest(key, index)}")
        if key in keys:
            raise DataError(f"{path}, line {number}: '{name}' is in line {keys[key]} already")
        keys[key] = number
    return list(keys)


def _listed_paths(path: Path, data_dir: Path, columns: int) -> list[list[Path]]:
    """Paths in a list file of ``columns`` columns (labels may be left out where only images are wanted).

    Columns are parted by a tab, or by blanks where that gives two.
    """
    rows = []
    for number, line in _read_list(path):
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        if columns == 1 and (slashed(data_dir / line).is_file() or len(cells) != 2):
            cells = [line]
        if len(cells) < columns or len(cells) > 2:
            raise DataError(
                f"{path}, line {number}: write the image's path, a tab, and the label's (found {len(cells)} parts)"
            )
        row = [slashed(data_dir / cell) for cell in cells]
        for listed in row[:columns]:
            if not listed.is_file():
                raise DataError(f"{path}, line {number}: {listed} is not a file")
        rows.append(row)
    return rows


def list_images(paths: SplitPaths | str | os.PathLike) -> list[Path]:
    """List the images of a split, or of a folder including subfolders.

    Raises:
        DataError: no folder, no images, two of one name, or a split that has labels but no ``image`` folder.
    """
    if not isinstance(paths, SplitPaths):
        folder = Path(paths)
        if (folder / "label").is_dir() and not (folder / "image").is_dir():
            raise DataError(f"{folder / 'image'}: no such folder; put the images there")
        images = folder / "image" if (folder / "image").is_dir() else folder
        return sorted(index_files(list_files(images, IMAGE_SUFFIXES)).values())
    if paths.shards is not None:
        return [pair.image for pair in _pairs_in_shards(paths.shards)]
    if paths.is_path_list:
        return list(index_files(row[0] for row in paths.rows(1)).values())
    if not paths.named and not paths.image.is_dir() and paths.folder.is_dir():
        return list_images(paths.folder)  # a split for prediction alone may hold its images as they are
    return sorted(_images(paths).values())


def list_labels(paths: SplitPaths) -> list[Path]:
    """List the label files of a split, with or without images.

    Raises:
        DataError: none, or two of one name.
    """
    if paths.is_path_list:
        return [row[1] for row in paths.rows(2)]
    labels = _labels(paths)
    if paths.list_file is not None:
        return [labels[key] for key in _listed_keys(paths.list_file, labels, paths.image_affixes)]
    return sorted(labels.values())


def list_pairs(paths: SplitPaths) -> list[Pair]:
    """List all samples of a split, sorted by name, or in the order of its list.

    Raises:
        DataError: a folder is missing or empty, or an image has no label.
    """
    if paths.shards is not None:
        return _pairs_in_shards(paths.shards)
    if paths.is_path_list:
        rows = paths.rows(2)
        index_files(image for image, _ in rows)  # results are written under the images' names
        index_files(label for _, label in rows)  # and SegFix ground truth under the labels'
        return [Pair(sample_key(image), image, label) for image, label in rows]
    for folder in (paths.image, paths.label):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: no such folder; a dataset is laid out as <data root>/<dataset>/<split>/{{image,label}}, "
                "or as its own file says (docs/your-data.md); lib/datasets/preprocess/ has programs for the public ones"
            )
    images = _images(paths)
    labels = _labels(paths)
    require_partners(images, labels, "label", paths.label)
    if paths.list_file is None and len(labels) > len(images):
        alone = next(path for key, path in labels.items() if key not in images)
        logger.warning("%s: %d labels have no image (%s)", paths.label, len(labels) - len(images), alone.name)
    keys = images if paths.list_file is not None else sorted(images)
    return [Pair(sample_key(images[key]), images[key], labels[key]) for key in keys]


def unmatched(paths: SplitPaths) -> tuple[list[Pair], dict[str, str], dict[str, str]]:
    """Return the pairs of a split, and unmatched images and labels with the nearest name.

    Raises:
        DataError: a folder or a list cannot be read.
    """
    if paths.is_path_list or paths.shards is not None:
        return list_pairs(paths), {}, {}
    images = _images(paths)
    labels = _labels(paths)
    alone = [key for key in images if key not in labels]
    left = {} if paths.list_file is not None else {key: path for key, path in labels.items() if key not in images}
    pairs = [Pair(sample_key(images[key]), images[key], labels[key]) for key in sorted(images) if key in labels]
    suffix = _common_suffix(images, labels)
    return (
        pairs,
        _with_suggestions({key: images[key] for key in alone}, left or labels, suffix),
        _with_suggestions(left, alone or images),
    )


def _with_suggestions(files: Mapping[str, Path], names: Iterable[str], suffix: str = "") -> dict[str, str]:
    """What is nearest to each file's key; of many files only the first, since comparing names takes long."""
    names = list(itertools.islice(names, _SUGGESTION_POOL))
    return {
        str(path): _nearest(key, names, suffix) if number < _SUGGESTED else "see the first ones"
        for number, (key, path) in enumerate(files.items())
    }


def _common_suffix(images: Mapping[str, Path], labels: Mapping[str, Path]) -> str:
    """What all labels' names have beside their images' names, such as ``_mask``; empty where that is not so."""
    image, label = next(iter(sorted(images)), ""), next(iter(sorted(labels)), "")
    suffix = label[len(image) :] if image and label.startswith(image) else ""
    if suffix and all(f"{key}{suffix}" in labels for key in itertools.islice(images, 100)):
        return suffix
    return ""


def _nearest(key: str, names: Iterable[str], suffix: str = "") -> str:
    if suffix:
        return f"all labels end in '{suffix}': say label_suffix: {suffix} in the dataset's file"
    names = list(itertools.islice(names, _SUGGESTION_POOL))
    return nearest_names(key, names, limit=3) if names else "there are no others"


def _explain_missing(wanted: Mapping[str, Path], others: Mapping[str, Path], what: str, where: Path) -> str:
    missing = [path for key, path in wanted.items() if key not in others]
    names = ", ".join(path.name for path in missing[:3]) + (", ..." if len(missing) > 3 else "")
    example = next(iter(others.values()), None)
    suffix = _common_suffix(wanted, others) if what == "label" else ""
    hint = f"; {_nearest('', (), suffix)}" if suffix else ""
    return (
        f"{len(missing)} of {len(wanted)} files below {missing[0].parent} have no {what} in {where} ({names}); a pair "
        f"shares its name, and the {what}s look like {example}{hint}"
    )


def pair_files(wanted: Iterable[Path], others: Iterable[Path], what: str) -> dict[str, tuple[Path, Path]]:
    """Pair each file of ``wanted`` with the file of ``others`` of the same key.

    Raises:
        DataError: an unmatched file; ``what`` names the missing kind.
    """
    others = list(others)
    wanted_index, index = index_files(wanted), index_files(others)
    require_partners(wanted_index, index, what, others[0].parent if others else Path())
    return {key: (path, index[key]) for key, path in wanted_index.items()}


def require_partners(wanted: Mapping[str, Path], others: Mapping[str, Path], what: str, where: Path) -> None:
    """Raises DataError where a key of ``wanted`` is not in ``others``, the files of kind ``what`` in ``where``."""
    if any(key not in others for key in wanted):
        raise DataError(_explain_missing(wanted, others, what, where))


def list_truths(split: SplitPaths) -> dict[str, Path]:
    """Return the labels of a split by the key of predictions: that of the image, or of the label without images.

    Raises:
        DataError: the split has no labels.
    """
    if not (split.list_file or split.shards or split.label.is_dir()):
        raise DataError(f"{split.label}: no such folder")
    if split.names_differ:
        return {pair.key: pair.label for pair in list_pairs(split)}
    return index_files(list_labels(split))


def match_labels(predictions: Sequence[Path], split: SplitPaths) -> dict[Path, Path]:
    """Return the ground truth of each predicted label map.

    Raises:
        DataError: a prediction has no ground truth, or the split has none.
    """
    truths, index = list_truths(split), index_files(predictions)
    require_partners(index, truths, "truth", split.label)
    return {path: truths[key] for key, path in index.items()}
