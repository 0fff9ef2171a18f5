"""``openseg.make_segfix_targets``: SegFix ground truth of label maps or of instance maps."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.datasets.splits import list_labels, pair_files, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, list_files
from openseg.io.images import read_label
from openseg.io.parallel import run_parallel
from openseg.io.progress import show_progress
from openseg.io.results import Journal, ResultFolder
from openseg.segfix.target_files import TARGET_SUFFIXES, write_targets
from openseg.segfix.targets import Rule, make_instance_targets, make_targets
from openseg.tools.paths import PathLike, existing_dir, worker_count

__all__ = ["MadeTargets", "make_segfix_targets"]


_OUTNAME = {"label": "offset_gt/dt_offset", "instance": "offset_gt/dt_offset_inst_w_stuff"}


@dataclass(frozen=True)
class MadeTargets:
    """The ground truth of a split: its folder, how many files were made now, and how many there are."""

    split: str
    folder: Path
    made: int
    total: int


def make_segfix_targets(
    *,
    dataset: str | None = None,
    datadir: PathLike | None = None,
    data_root: PathLike = "data",
    splits: Sequence[str] = ("train", "val"),
    instances: bool = False,
    rule: Rule = "original",
    outname: str | None = None,
    format: Literal["png", "mat"] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> list[MadeTargets]:
    """Make SegFix ground truth from label or instance maps; existing files of the same settings are skipped.

    Args:
        dataset: built-in dataset name, or YAML file of your own dataset; defines the label IDs; None is the name of
            ``datadir``.
        datadir: the dataset's folder; None is that of ``dataset`` below ``data_root``, or where its file says.
        data_root: root folder of all datasets.
        splits: splits to process.
        instances: from instance maps, every object being a region.
        rule: original: identical to the original; clean: small regions count, the image border does not distort
            angles, and center lines of thin objects get no offset.
        outname: folder inside the split; None is ``offset_gt/dt_offset``, with ``_inst_w_stuff`` and ``_clean``.
        format: png: compact; mat: the original's layout; None is that of existing files, or png.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        For each split its folder and the number of files.

    Raises:
        DataError: a label cannot be read, or the folder holds other files.
    """
    kind = "instance" if instances else "label"
    if dataset is None:
        dataset = Path(datadir).resolve().name if datadir else "cityscapes"
    info = get_dataset_info(dataset)
    root = existing_dir(datadir or Path(data_root) / info.folder, f"a dataset with <split>/{kind}")
    outname = outname or _OUTNAME[kind] + ("" if rule == "original" else f"_{rule}")
    if Path(outname).is_absolute() or ".." in Path(outname).parts:
        raise ConfigError(f"--outname {outname}: a folder inside of the split; name it without .. and a first /")
    made = []
    for split in splits:
        paths = split_paths(info, root, split)
        out = paths.folder / outname
        # The network finds its ground truth by the labels' names, whatever the instance maps are called.
        labels = list_labels(paths)
        maps = {path.stem: path for path in labels}
        if instances:
            found = pair_files(labels, list_files(paths.instance, LABEL_SUFFIXES), "instance map")
            maps = {label.stem: path for label, path in found.values()}
        suffix = _suffix(out, format)
        made_by = {"dataset": info.name} | ({"maps": kind} if instances else {})
        if rule != "original":
            made_by["rule"] = rule
        if dataset not in DATASET_NAMES:
            made_by["ids"] = info.fingerprint
        jobs = [(path, out / f"{stem}{suffix}") for stem, path in maps.items()]
        with ResultFolder(out, made_by, TARGET_SUFFIXES) as folder, show_progress(progress):
            todo = [(path, target) for path, target in jobs if not folder.is_done(target, path)]
            folder.start()
            work = functools.partial(_write_targets, dataset, kind, rule)
            run_parallel(work, todo, f"SegFix {split}", worker_count(workers))
        made.append(MadeTargets(split, out, len(todo), len(maps)))
    return made


def _suffix(out: Path, wanted: str | None) -> str:
    """Of the files to make: as wanted, or as those that are there.

    Raises:
        DataError: the folder holds ground truth in another format than wanted.
    """
    there = {path.suffix for path in out.glob("[!.]*")} & set(TARGET_SUFFIXES)
    suffix = f".{wanted}" if wanted else next(iter(there), ".png")
    if there - {suffix}:
        other = (there - {suffix}).pop()
        raise DataError(
            f"{out}: holds ground truth as {other}, which is read as well; continue with --format {other[1:]}, or "
            "choose another --outname"
        )
    return suffix


def _write_targets(dataset: str, kind: str, rule: Rule, job: tuple[Path, Path]) -> None:
    path, target = job
    info = get_dataset_info(dataset)
    with Journal(target.parent).writing(path):
        if kind == "instance":
            targets = make_instance_targets(info.merge_instances(read_label(path)), info.ids, rule)
        else:
            targets = make_targets(info.read_truth(path), rule)
        write_targets(target, targets)
