"""SegFix ground truth of label folders and of instance folders."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence
from pathlib import Path

from openseg.catalog import CATALOG_NAMES, get_catalog
from openseg.cli.common import HelpFormatter, add_debug, add_workers, existing_dir, run_command
from openseg.cli.profile import data_root
from openseg.data.folder import list_labels, pair_files, split_paths
from openseg.errors import DataError
from openseg.files import claim_folder, is_older, list_files
from openseg.images import read_label
from openseg.parallel import run_parallel
from openseg.segfix.targets import TARGET_SUFFIXES

__all__ = ["instance_targets", "segfix_targets"]


def segfix_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of label folders."""
    return _targets_command(argv, "label", "offset_gt/dt_offset")


def instance_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of folders of instance maps."""
    return _targets_command(argv, "instance", "offset_gt/dt_offset_inst_w_stuff")


def _targets_command(argv: Sequence[str] | None, kind: str, outname: str) -> int:
    parser = argparse.ArgumentParser(
        description=f"Make SegFix ground truth from {kind} maps.", formatter_class=HelpFormatter
    )
    parser.add_argument(
        "--datadir",
        metavar="DIR",
        help=f"folder with <split>/{kind} (default: $DATA_ROOT/cityscapes, or where the data set's own file says)",
    )
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="default: train val")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        help="whose ids the labels hold: a name, or a YAML file of your own (default: the folder's name)",
    )
    parser.add_argument("--outname", default=outname, help="folder inside the split")
    parser.add_argument(
        "--format", choices=("png", "mat"), help="png: ours; mat: the original's (default: as is there, or png)"
    )
    add_workers(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _make_targets(arguments, kind), arguments.debug)


def _make_targets(arguments: argparse.Namespace, kind: str) -> None:
    dataset, datadir = arguments.dataset, arguments.datadir
    if dataset is None:
        dataset = Path(datadir).resolve().name if datadir else "cityscapes"
    catalog = get_catalog(dataset)
    root = existing_dir(datadir or data_root() / catalog.folder, f"a data set with <split>/{kind}")
    for split in arguments.split:
        paths = split_paths(catalog, root, split)
        out = paths.folder / arguments.outname
        # The network finds its ground truth by the labels' names, whatever the instance maps are called.
        labels = list_labels(paths)
        maps = {path.stem: path for path in labels}
        if kind == "instance":
            instances = pair_files(labels, list_files(paths.instance, (".png",)), "instance map")
            maps = {label.stem: path for label, path in instances.values()}
        suffix = _suffix(out, arguments.format)
        made_by = {"dataset": catalog.name} | ({"maps": kind} if kind != "label" else {})
        if dataset not in CATALOG_NAMES:
            made_by["ids"] = catalog.fingerprint
        kept = claim_folder(out, made_by, TARGET_SUFFIXES)[""]
        jobs = [(path, out / f"{stem}{suffix}") for stem, path in maps.items()]
        todo = [(path, target) for path, target in jobs if target.name not in kept or is_older(target, path)]
        work = functools.partial(_write_targets, dataset, kind)
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


def _write_targets(dataset: str, kind: str, job: tuple[Path, Path]) -> None:
    from openseg.segfix.targets import make_instance_targets, make_targets, write_targets

    path, target = job
    catalog = get_catalog(dataset)
    if kind == "instance":
        targets = make_instance_targets(catalog.merge_instances(read_label(path)), catalog.ids)
    else:
        targets = make_targets(catalog.read_truth(path))
    write_targets(target, targets)
