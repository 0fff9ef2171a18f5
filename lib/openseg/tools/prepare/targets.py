"""SegFix ground truth of label folders and of instance folders."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from openseg.cli.common import HelpFormatter, add_debug, add_workers, existing_dir, run_command
from openseg.cli.profile import data_root
from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.datasets.splits import list_labels, pair_files, split_paths
from openseg.errors import DataError
from openseg.io.files import is_older, list_files
from openseg.io.images import read_label
from openseg.io.parallel import run_parallel
from openseg.io.results import claim_folder
from openseg.segfix.target_files import TARGET_SUFFIXES
from openseg.segfix.targets import RULES, Rule

__all__ = ["add_targets_options", "instance_targets", "make_targets_of", "segfix_targets"]


_OUTNAME = {"label": "offset_gt/dt_offset", "instance": "offset_gt/dt_offset_inst_w_stuff"}


def segfix_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of label folders."""
    return _targets_command(argv, "label")


def instance_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of folders of instance maps."""
    return _targets_command(argv, "instance")


def _targets_command(argv: Sequence[str] | None, kind: str) -> int:
    parser = argparse.ArgumentParser(
        description=f"Make SegFix ground truth from {kind} maps.", formatter_class=HelpFormatter
    )
    add_targets_options(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    arguments.instances = kind == "instance"
    return run_command(lambda: make_targets_of(arguments), arguments.debug)


def add_targets_options(parser: argparse.ArgumentParser) -> None:
    """What all commands that make ground truth share."""
    parser.add_argument(
        "--datadir",
        metavar="DIR",
        help="the dataset's folder (default: $DATA_ROOT/cityscapes, or where the dataset's own file says)",
    )
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="default: train val")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose ids the labels hold: a name, or a YAML file of your own (default: the folder's name)",
    )
    parser.add_argument(
        "--rule",
        choices=RULES,
        default="original",
        help="original: as the original's, defects included; clean: small regions count, the border of the image bends "
        "nothing, thin objects' middle lines stay (default: original)",
    )
    parser.add_argument(
        "--outname", help="folder inside the split (default: offset_gt/dt_offset, with _inst_w_stuff and _clean)"
    )
    parser.add_argument(
        "--format", choices=("png", "mat"), help="png: ours; mat: the original's (default: as is there, or png)"
    )
    add_workers(parser)


def make_targets_of(arguments: argparse.Namespace) -> None:
    """Make the ground truth of splits; ``arguments.instances`` says from which maps."""
    kind, rule = "instance" if arguments.instances else "label", arguments.rule
    dataset, datadir = arguments.dataset, arguments.datadir
    if dataset is None:
        dataset = Path(datadir).resolve().name if datadir else "cityscapes"
    info = get_dataset_info(dataset)
    root = existing_dir(datadir or data_root() / info.folder, f"a dataset with <split>/{kind}")
    outname = arguments.outname or _OUTNAME[kind] + ("" if rule == "original" else f"_{rule}")
    for split in arguments.split:
        paths = split_paths(info, root, split)
        out = paths.folder / outname
        # The network finds its ground truth by the labels' names, whatever the instance maps are called.
        labels = list_labels(paths)
        maps = {path.stem: path for path in labels}
        if kind == "instance":
            instances = pair_files(labels, list_files(paths.instance, (".png",)), "instance map")
            maps = {label.stem: path for label, path in instances.values()}
        suffix = _suffix(out, arguments.format)
        made_by = {"dataset": info.name} | ({"maps": kind} if kind != "label" else {})
        if rule != "original":
            made_by["rule"] = rule
        if dataset not in DATASET_NAMES:
            made_by["ids"] = info.fingerprint
        kept = claim_folder(out, made_by, TARGET_SUFFIXES)[""]
        jobs = [(path, out / f"{stem}{suffix}") for stem, path in maps.items()]
        todo = [(path, target) for path, target in jobs if target.name not in kept or is_older(target, path)]
        work = functools.partial(_write_targets, dataset, kind, rule)
        run_parallel(work, todo, f"SegFix {split}", arguments.workers)
        print(f"{split}: {len(todo)} of {len(maps)} written to {out}")


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
            f"{out}: holds ground truth as {other}, which is read as well; go on with it by --format {other[1:]}, or "
            "choose another --outname"
        )
    return suffix


def _write_targets(dataset: str, kind: str, rule: Rule, job: tuple[Path, Path]) -> None:
    from openseg.segfix.target_files import write_targets
    from openseg.segfix.targets import make_instance_targets, make_targets

    path, target = job
    info = get_dataset_info(dataset)
    if kind == "instance":
        targets = make_instance_targets(info.merge_instances(read_label(path)), info.ids, rule)
    else:
        targets = make_targets(info.read_truth(path), rule)
    write_targets(target, targets)
