"""The preparation programs below ``lib/datasets/preprocess``: they make folders that ``main.py`` reads."""

from __future__ import annotations

import argparse
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path

from openseg.catalog import CATALOG_NAMES, get_catalog
from openseg.cli.common import HelpFormatter, existing_dir, run_command, run_parallel
from openseg.cli.profile import data_root
from openseg.data.folder import pair_files
from openseg.errors import DataError
from openseg.files import IMAGE_SUFFIXES, atomic_write, claim_folder, list_files, read_label, write_json

__all__ = ["camvid", "demo", "instance_targets", "segfix_targets"]


def _parser(description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")
    return parser


def _copy(pair: tuple[Path, Path]) -> None:
    source, target = pair
    if target.exists() and target.stat().st_size == source.stat().st_size and not _is_older(target, source):
        return
    try:
        content = source.read_bytes()
    except OSError as error:
        raise DataError(f"{source}: cannot be read ({error.strerror})") from None
    with atomic_write(target) as temporary:
        temporary.write_bytes(content)


def camvid(argv: Sequence[str] | None = None) -> int:
    """CamVid in the SegNet release's layout, or ``{train,val}/{image,label}``, into the data root."""
    parser = _parser("Prepare CamVid (the SegNet release).")
    parser.add_argument("--input", required=True, metavar="DIR", help="folder with train, trainannot, val, valannot")
    parser.add_argument("--out", metavar="DIR", help="data root (default: DATA_ROOT of config.profile)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _camvid(arguments), arguments.debug)


def _camvid(arguments: argparse.Namespace) -> None:
    root, out = existing_dir(arguments.input, "the CamVid release"), Path(arguments.out or data_root()) / "camvid"
    copies: list[tuple[Path, Path]] = []
    for split in ("train", "val", "test"):
        folders = {"image": root / split / "image", "label": root / split / "label"}
        if not folders["image"].is_dir():
            folders = {"image": root / split, "label": root / f"{split}annot"}
        if not all(folder.is_dir() for folder in folders.values()):
            if split == "test":
                continue
            raise DataError(f"{root}: no folder {folders['image'].name} with {folders['label'].name}; is this CamVid?")
        found = {
            kind: [path for path in list_files(folder, IMAGE_SUFFIXES) if path.parent == folder]
            for kind, folder in folders.items()
        }
        names = {kind: {path.stem for path in paths} for kind, paths in found.items()}
        alone = sorted(names["image"] ^ names["label"])
        if alone:
            raise DataError(f"{root}: {split} has {len(alone)} images or labels without partner, such as {alone[0]}")
        copies += [(path, out / split / kind / path.name) for kind, paths in found.items() for path in paths]
        print(f"{split}: {len(names['image'])} images")
    run_parallel(_copy, copies, "camvid", arguments.workers)
    print(f"CamVid is in {out}")


def segfix_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of label folders."""
    return _targets_command(argv, "label", "offset_gt/dt_offset")


def instance_targets(argv: Sequence[str] | None = None) -> int:
    """SegFix ground truth of folders of instance maps."""
    return _targets_command(argv, "instance", "offset_gt/dt_offset_inst_w_stuff")


def _targets_command(argv: Sequence[str] | None, kind: str, outname: str) -> int:
    parser = _parser(f"Make SegFix ground truth from {kind} maps.")
    parser.add_argument("--datadir", metavar="DIR", help=f"folder with <split>/{kind} (default: $DATA_ROOT/cityscapes)")
    parser.add_argument("--split", nargs="+", default=["train", "val"], help="default: train val")
    parser.add_argument(
        "--dataset", choices=CATALOG_NAMES, help="whose ids the labels hold (default: the folder's name)"
    )
    parser.add_argument("--outname", default=outname, help="folder inside the split")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _make_targets(arguments, kind), arguments.debug)


def _make_targets(arguments: argparse.Namespace, kind: str) -> None:
    root = existing_dir(arguments.datadir or data_root() / "cityscapes", f"a data set with <split>/{kind}")
    dataset = get_catalog(arguments.dataset or root.resolve().name).name
    for split in arguments.split:
        out = root / split / arguments.outname
        # The network finds its ground truth by the labels' names, whatever the instance maps are called.
        labels = list_files(root / split / "label", (".png",))
        maps = {path.stem: path for path in labels}
        if kind != "label":
            instances = pair_files(labels, list_files(root / split / kind, (".png",)), f"{kind} map")
            maps = {label.stem: path for label, path in instances.values()}
        kept = claim_folder(out, {"dataset": dataset} | ({"maps": kind} if kind != "label" else {}), (".mat",))
        jobs = [(path, out / f"{stem}.mat") for stem, path in maps.items()]
        todo = [(path, target) for path, target in jobs if target.name not in kept or _is_older(target, path)]
        work = functools.partial(_write_targets, dataset, kind)
        run_parallel(work, todo, f"SegFix {split}", arguments.workers)
        print(f"{split}: {len(todo)} of {len(maps)} written to {out}")


def _is_older(made: Path, source: Path) -> bool:
    return made.stat().st_mtime < source.stat().st_mtime


def _write_targets(dataset: str, kind: str, job: tuple[Path, Path]) -> None:
    from openseg.segfix.targets import make_instance_targets, make_targets, write_targets

    path, target = job
    catalog, values = get_catalog(dataset), read_label(path)
    if kind == "instance":
        targets = make_instance_targets(values, catalog.ids)
    else:
        targets = make_targets(catalog.encode(values, path))
    write_targets(target, targets)


def demo(argv: Sequence[str] | None = None) -> int:
    """Rendered street scenes."""
    parser = _parser("Render street scenes with labels and instances, in the ids of Cityscapes.")
    parser.add_argument("--out", metavar="DIR", help="data root (default: DATA_ROOT of config.profile)")
    parser.add_argument("--train", type=int, default=120, metavar="N", help="training scenes (default: 120)")
    parser.add_argument("--val", type=int, default=30, metavar="N", help="validation scenes (default: 30)")
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"), help="default: 256 512")
    parser.add_argument("--seed", type=seed, default=1, help="other scenes for another seed (default: 1)")
    arguments = parser.parse_args(argv)
    return run_command(lambda: _demo(arguments), arguments.debug)


def seed(text: str) -> int:
    """A seed given on the command line."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 on")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from openseg.data.scenes import write_scene

    out = Path(arguments.out or data_root()) / "demo"
    settings = {"train": arguments.train, "val": arguments.val, "size": list(arguments.size), "seed": arguments.seed}
    record = out / "scenes.json"
    if record.exists() and json.loads(record.read_text(encoding="utf-8")) != settings:
        raise DataError(f"{out}: holds scenes of other settings ({record}); remove it or choose another --out")
    write_json(record, settings)
    scenes = [(out / split, i) for split in ("train", "val") for i in range(getattr(arguments, split))]
    work = functools.partial(write_scene, size=tuple(arguments.size), seed=arguments.seed)
    run_parallel(work, scenes, "render", arguments.workers)
    print(f"{len(scenes)} scenes are in {out}")
