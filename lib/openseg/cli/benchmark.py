"""``main.py benchmark``: where the time of training and of prediction goes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from openseg.cli.common import config_of
from openseg.errors import OpensegError
from openseg.io.files import write_json

if TYPE_CHECKING:
    from openseg.config import Config

__all__ = ["add_benchmark", "benchmark"]


def add_benchmark(parser: argparse.ArgumentParser) -> None:
    """Its options, besides those of the config and the device."""
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="updates to measure (default: 10)")
    parser.add_argument("--warm-up", type=int, default=3, metavar="N", help="updates before (default: 3)")
    parser.add_argument("--random-data", action="store_true", help="random images and labels in place of the dataset")
    parser.add_argument("--json", metavar="FILE", help="also write the figures here")


def benchmark(arguments: argparse.Namespace) -> None:
    """Print the parts of an update and of a prediction."""
    from openseg.distributed import pick_device
    from openseg.tools.benchmark import measure

    if arguments.iterations < 1 or arguments.warm_up < 0:
        raise OpensegError("--iterations must be 1 or more, --warm-up 0 or more")
    config = config_of(arguments)
    device = pick_device(arguments.device)
    results = measure(config, device, arguments.iterations, arguments.warm_up, arguments.random_data)
    _show(config, results)
    if arguments.json:
        write_json(arguments.json, results)


def _show(config: Config, results: dict[str, dict[str, float]]) -> None:
    from openseg.tools.benchmark import PREDICTION, TRAINING
    from openseg.tools.report.tables import align

    height, width = config.augment.crop_size
    for what, names in (("training", TRAINING), ("prediction", PREDICTION)):
        found = results[what]
        total = sum(found[name] for name in names)
        rows = [
            ["part", "ms", "share"],
            *([name, f"{found[name]:.1f}", f"{found[name] / total:.1%}"] for name in names),
        ]
        print(f"\n{what}, {height}x{width}: {found['images/s']:.2f} images/s")
        print(align([*rows, ["all", f"{total:.1f}", ""]]))
        if "peak MiB" in found:
            print(f"peak memory of the GPU: {found['peak MiB']:.0f} MiB")
