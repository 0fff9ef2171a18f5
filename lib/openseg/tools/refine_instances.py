"""``openseg.refine_instances``: boundary refinement of the masks of objects with a refiner or SegFix offsets."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np

from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import IMAGE_SUFFIXES, LABEL_SUFFIXES, atomic_write, list_files
from openseg.io.images import read_label, require_same_size, write_label
from openseg.io.matching import index_files, match_files, sample_key
from openseg.io.parallel import map_parallel
from openseg.io.progress import show_progress
from openseg.io.results import Journal, ResultFolder, list_given
from openseg.metrics import InstanceScores
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.offset_source import find_offsets, require_split
from openseg.tools.paths import PathLike, existing_dir, worker_count
from openseg.tools.refine import Refinement, logger
from openseg.tools.refine_coco import refine_coco
from openseg.tools.refining import (
    MaskRefiner,
    RefineSettings,
    remaining,
    require_matches,
    require_one_source,
    sources_of,
    write_left_out,
)
from openseg.tools.report.tables import write_score_files
from openseg.tools.scoring import list_instances, score_instances

__all__ = ["refine_instances"]

_LIST = "_pred"


def refine_instances(
    masks: PathLike,
    *,
    offsets: PathLike | None = None,
    images: PathLike | None = None,
    checkpoint: PathLike | None = None,
    config: PathLike | None = None,
    annotations: PathLike | None = None,
    dataset: str = "cityscapes",
    split: Literal["val", "test"] = "val",
    data_root: PathLike = "data",
    dataset_dir: PathLike | None = None,
    out: PathLike | None = None,
    scale: int = 1,
    min_confidence: float = 0.0,
    keep_thin: int = 0,
    steps: int = 1,
    eval_only: bool = False,
    overwrite: bool = False,
    fail_fast: bool = False,
    device: str = "auto",
    workers: int | None = None,
    progress: bool = True,
) -> Refinement:
    """Refine instance masks; names, classes and confidences are unchanged.

    Args:
        masks: folder in the format of the Cityscapes benchmark (one ``<name>_pred.txt`` per image), or a JSON file of
            COCO results (RLE or polygons).
        offsets: folder or zip archive of offset files; None is a search of the default locations, without ``images``.
        images: folder of the images, instead of ``offsets``; without ``checkpoint``, with the refiner that comes with
            openseg.
        checkpoint: checkpoint of a SegFix network or a refiner, with ``images``.
        config: config of the checkpoint; None is the one it names, or the shipped one it fits.
        annotations: COCO annotations: image file names and ground truth.
        dataset: built-in dataset name, or YAML file of your own dataset; defines the class IDs.
        split: val: compute scores if every image has ground truth; test: no scores.
        data_root: root folder of the datasets, with their ground truth.
        dataset_dir: folder of the dataset itself, instead of ``data_root``.
        out: output folder; None is ``<input>_w_segfix`` beside the input.
        scale: step length in pixels.
        min_confidence: minimum direction confidence (0 to 1) of pixels to refine.
        keep_thin: leave mask parts thinner than this unchanged, in pixels; 0: refine all.
        steps: repetitions of the refinement with SegFix offsets, each of the masks of the one before.
        eval_only: only score the masks in ``masks`` and in ``out``.
        overwrite: overwrite existing results.
        fail_fast: stop at the first error.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        workers: number of processes; None is one for each core. A network runs in one.
        progress: show progress bars on a terminal.

    Returns:
        Output folder or file, number of refined images or masks, those left out, and AP before and after.

    Raises:
        ConfigError: arguments that contradict each other.
        DataError: nothing can be refined.
    """
    require_split(split)
    settings = RefineSettings(dataset, scale, min_confidence, keep_thin=keep_thin, steps=steps)
    require_one_source(offsets, images, checkpoint)
    source, how = Path(masks), _how(settings, images, checkpoint, config, device)
    processes = 1 if images is not None else worker_count(workers)

    def found() -> Path:
        place = Path(images or offsets or find_offsets(split, dataset, Path(data_root), "instance"))
        logger.info("%s: %s", "offsets" if images is None else "images", place)
        return place

    if source.suffix.lower() == ".json":
        if eval_only:
            raise ConfigError("--eval_only is for folders of *_pred.txt")
        target = Path(out or source.with_name(f"{source.stem}_w_segfix.json")).resolve()
        with show_progress(progress):
            files, what = _files(found(), how)
            truth = Path(annotations) if annotations else None
            return refine_coco(source, target, files, how, truth, overwrite, fail_fast, processes, what)
    source = existing_dir(source, "masks and their lists, *_pred.txt").resolve()
    target = Path(out or source.with_name(f"{source.name}_w_segfix")).resolve()
    if source.is_relative_to(target):
        raise DataError(f"--out {target}: choose a folder beside {source} or inside, not around it")
    given = list_given(source, (".txt",), IMAGE_SUFFIXES)  # results may lie inside
    lists = [path.relative_to(source) for path in given if path.stem.endswith(_LIST)]
    if not lists:
        raise DataError(f"{source}: holds no *{_LIST}.txt")
    problems: list[str] = []
    scores: dict[str, InstanceScores] = {}
    not_scored = ""
    with show_progress(progress):
        if not eval_only:
            problems = _refine(source, target, lists, found(), how, overwrite, fail_fast, processes)
        if split == "val" and problems:
            not_scored = f"{len(problems)} images were left out"
        elif split == "val" or eval_only:
            root = Path(dataset_dir) if dataset_dir else Path(data_root) / get_dataset_info(dataset).folder
            try:
                scores = _score(source, target, lists, dataset, root, worker_count(workers))
            except DataError as error:
                if eval_only:
                    raise
                not_scored = str(error)
    written = {"scores": [target.with_name(f"{target.name}_scores.json")]} if scores else {}
    listed = write_left_out(problems, len(lists), target)
    done = len(lists) - len(problems)
    return Refinement(target, len(lists), done, problems, listed, scores, not_scored, written)


def _how(
    settings: RefineSettings,
    images: PathLike | None,
    checkpoint: PathLike | None,
    config: PathLike | None,
    device: str,
) -> MaskRefiner:
    if images is None:
        return settings
    from openseg.tools.refine_network import NetworkMasks, load_refiner

    return NetworkMasks(load_refiner(checkpoint, config, settings.dataset, device), settings, checkpoint)


def _files(place: Path, how: MaskRefiner) -> tuple[dict[str, OffsetFile], str]:
    """The files of a folder by name, and what they are."""
    if isinstance(how, RefineSettings):
        return list_offsets(place), f"offset in {place}; predict it"
    folder = existing_dir(place, "the images of the masks")
    return {path.relative_to(folder).as_posix(): path for path in list_files(folder)}, f"image in {folder}"


def _image_name(path: Path) -> str:
    return path.with_name(path.stem.removesuffix(_LIST) + path.suffix).as_posix()


def _refine(
    source: Path,
    out: Path,
    lists: list[Path],
    place: Path,
    how: MaskRefiner,
    overwrite: bool,
    fail_fast: bool,
    workers: int,
) -> list[str]:
    """Refine all images; returns what was left out."""
    files, what = _files(place, how)
    names = {_image_name(path): path for path in lists}
    matches, missing = match_files([*names], [*files])
    problems = require_matches(missing, len(lists), what, fail_fast)
    work = [(source / names[name], files[found], out / names[name]) for name, found in matches.items()]
    made_by = {"what": "refined instances", "masks": str(source)}
    made_by["offsets" if isinstance(how, RefineSettings) else "images"] = str(place.resolve())
    with remaining(work, out, made_by | how.settings, overwrite, (".png", ".txt")) as (claimed, todo):
        listed = set(todo)
        jobs = [job for job in work if not _masks_are_done(job, source, out, claimed) or job in listed]
        claimed.start()
        refined = partial(_refine_image, source=source, out=out, how=how, journal=claimed.journal, fail_fast=fail_fast)
        return problems + [each for each in map_parallel(refined, jobs, "segfix", workers) if each]


def _masks(listed: Path, source: Path) -> dict[Path, Path]:
    """The masks of a list, and their paths relative to ``source``.

    Raises:
        DataError: one leads out of that folder, or the list cannot be read.
    """
    masks = {}
    for path in list_instances(listed):
        plain = Path(os.path.normpath(path))  # not resolved: a link inside the folder is the user's own
        if not plain.is_relative_to(source):
            raise DataError(f"{listed}: {os.path.relpath(path, listed.parent)} leads out of {source}")
        masks[plain] = plain.relative_to(source)
    return masks


def _masks_are_done(files: tuple[Path, OffsetFile, Path], source: Path, out: Path, claimed: ResultFolder) -> bool:
    """Whether all masks of a list have a refined one that was made of them as they are."""
    try:
        masks = _masks(files[0], source)
    except DataError:
        return False
    if not all(path.is_file() for path in masks):
        return False
    offset = sources_of(files)[1]
    done = [claimed.is_done(out / inside, path, offset, kind=".") for path, inside in masks.items()]
    return all(done)  # after all were looked at, for files of others


def _refine_image(
    files: tuple[Path, OffsetFile, Path],
    source: Path,
    out: Path,
    how: MaskRefiner,
    journal: Journal,
    fail_fast: bool,
) -> str | None:
    """Refine the masks of one image, its list being written last; returns what is wrong, or None."""
    listed, offset, target = files
    try:
        masks, read = _masks(listed, source), how.read(offset)
        for path, inside in masks.items():
            mask = read_label(path) > 0
            require_same_size(path, mask.shape, offset, read.shape[:2])
            with journal.writing(path, sources_of(files)[1]):
                write_label(out / inside, how.mask(mask, read).astype(np.uint8) * np.uint8(255))
        with journal.writing(*sources_of(files)), atomic_write(target, durable=False) as temporary:
            temporary.write_bytes(listed.read_bytes())
    except DataError as error:
        if fail_fast:
            raise
        return str(error)
    return None


def _score(
    source: Path, out: Path, lists: list[Path], dataset: str, folder: Path, workers: int
) -> dict[str, InstanceScores]:
    """AP before and after.

    Raises:
        DataError: an image has no ground truth, or a file cannot be read.
    """
    split = split_paths(get_dataset_info(dataset), folder, "val")
    raw = folder / "gtFine" / "val"
    place = raw if raw.is_dir() and not split.instance.is_dir() else split.instance
    files = list_files(place, LABEL_SUFFIXES)
    if place == raw:  # a raw release holds other files of the same names
        files = [path for path in files if path.stem.endswith("_instanceIds")]
    truths = index_files(files)
    keys = {path: sample_key(_image_name(path)) for path in lists}
    for path, key in keys.items():
        if key not in truths:
            raise DataError(f"{path} has no ground truth in {place}")
    missing = len(truths) - len(set(keys.values()))
    if missing:
        logger.warning("%d images of %s have no result and are not scored", missing, place)
    results = {
        name: score_instances(
            [(base / path, truths[key]) for path, key in keys.items()], dataset, what=f"score {name}", workers=workers
        )
        for name, base in (("before", source), ("after", out))
    }
    write_score_files(results, out.with_name(f"{out.name}_scores.json"))
    return results
