"""Rendered street scenes, for the demo and the tests."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from openseg.cli.common import run_command
from openseg.cli.options import DEBUG, HelpFormatter, add_options
from openseg.errors import DataError
from openseg.io.files import write_json
from openseg.io.parallel import run_parallel
from openseg.tools.paths import worker_count
from openseg.tools.profile import data_root

__all__ = ["demo", "seed"]


def demo(argv: Sequence[str] | None = None) -> int:
    """Rendered street scenes."""
    parser = argparse.ArgumentParser(
        description="Render street scenes with label and instance maps, with the label IDs of Cityscapes.",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("--out", metavar="DIR", help="data root (default: DATA_ROOT of config.profile)")
    parser.add_argument("--train", type=int, default=120, metavar="N", help="number of training scenes (default: 120)")
    parser.add_argument("--val", type=int, default=30, metavar="N", help="number of validation scenes (default: 30)")
    parser.add_argument(
        "--shapes",
        type=int,
        default=0,
        metavar="N",
        help="images of random shapes, for refiners (default: 0)",
    )
    parser.add_argument("--size", type=int, nargs=2, default=(256, 512), metavar=("H", "W"), help="default: 256 512")
    parser.add_argument("--seed", type=seed, default=1, help="random seed of the scenes (default: 1)")
    parser.add_argument("--workers", type=int, metavar="N", help="number of processes (default: all cores)")
    add_options(parser, [DEBUG])
    arguments = parser.parse_args(argv)
    return run_command(lambda: _demo(arguments), arguments.debug)


def seed(text: str) -> int:
    """A seed given on the command line."""
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a non-negative integer")
    return int(text)


def _demo(arguments: argparse.Namespace) -> None:
    from openseg_demo.scenes import write_scene
    from openseg_demo.shapes import write_shapes

    out = Path(arguments.out or data_root()) / "demo"
    settings = {"train": arguments.train, "val": arguments.val, "size": list(arguments.size), "seed": arguments.seed}
    settings |= {"shapes": arguments.shapes} if arguments.shapes else {}
    record = out / "scenes.json"
    if record.exists() and json.loads(record.read_text(encoding="utf-8")) != settings:
        raise DataError(f"{out}: holds scenes of other settings ({record}); remove it or choose another --out")
    write_json(record, settings)
    scenes = [(out / split, i) for split in ("train", "val") for i in range(getattr(arguments, split))]
    work = functools.partial(write_scene, size=tuple(arguments.size), seed=arguments.seed)
    workers = worker_count(arguments.workers)
    run_parallel(work, scenes, "render", workers)
    shapes = [(out / "shapes", i) for i in range(arguments.shapes)]
    run_parallel(
        functools.partial(write_shapes, size=tuple(arguments.size), seed=arguments.seed), shapes, "shapes", workers
    )
    print(f"{len(scenes) + len(shapes)} images are in {out}")
