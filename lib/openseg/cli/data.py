"""``main.py check`` and ``main.py cache``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from openseg.cli.common import add_config, add_workers, config_of
from openseg.config import Config, DataConfig
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.parallel import map_parallel

if TYPE_CHECKING:
    from openseg.datasets.check import SplitReport
    from openseg.datasets.samples import Samples
    from openseg.datasets.splits import Pair

__all__ = ["add_cache", "add_check", "cache", "check"]

EXIT_FOUND = 1


def add_check(parser: argparse.ArgumentParser) -> None:
    """The options of ``check``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="YAML", help="a config: its training and validation samples")
    what.add_argument("--dataset", metavar="NAME", help="a built-in dataset, or the YAML file of your own")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="with --dataset (default: data)")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="default: those of the config, or train val")
    parser.add_argument("--json", metavar="FILE", help="write everything here as well")
    add_workers(parser)


def check(arguments: argparse.Namespace) -> int:
    """Read a dataset and print what is wrong with it; 1 if something is."""
    from openseg.datasets.check import SplitReport, same_images
    from openseg.io.files import write_json
    from openseg.tools.report.check import check_text

    config = _checked_config(arguments)
    data = config.data
    splits = arguments.split or [*data.train_split.split("+"), *data.val_split.split("+")]
    reports = []
    for split in dict.fromkeys(splits):
        report = SplitReport(split, config.dataset_info)
        _check_split(config, split, report, arguments.workers)
        print(f"{check_text(report)}\n")
        reports.append(report)
    across = same_images(reports)
    for text in across:
        print(f"warning: {text}")
    errors = sum(len(report.errors) for report in reports)
    warnings = sum(len(report.warnings) for report in reports) + len(across)
    print(f"{config.dataset_info.name}: {errors} errors, {warnings} warnings")
    if arguments.json:
        content = {"dataset": config.dataset_info.name, "errors": errors, "warnings": across}
        write_json(arguments.json, content | {"splits": {report.name: report.as_dict() for report in reports}})
    return EXIT_FOUND if errors else 0


def _checked_config(arguments: argparse.Namespace) -> Config:
    if arguments.config:
        return config_of(arguments)
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: overrides belong to --config; with --dataset use --data-root")
    from openseg.datasets.registry import get_dataset_info

    get_dataset_info(arguments.dataset)  # its errors are better than those of a setting
    return Config(name="check", data=DataConfig(dataset=arguments.dataset, root=Path(arguments.data_root)))


def _check_split(config: Config, split: str, report: SplitReport, workers: int) -> None:
    from openseg.datasets.check import inspect
    from openseg.datasets.splits import list_split, split_paths, unmatched

    try:
        pairs, images, labels = unmatched(split_paths(config.dataset_info, config.data_dir, split))
        report.errors += [f"{path}: has no label; {hint}" for path, hint in images.items()]
        report.warnings += [f"{path}: has no image; {hint}" for path, hint in labels.items()]
        if config.task == "segfix" and not images:
            pairs = list_split(config, split)
    except DataError as error:
        report.errors.append(str(error))
        return
    work = functools.partial(inspect, config=config)
    for sample in map_parallel(work, pairs, f"check {split}", workers):
        report.add(sample)
    report.finish()


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The options of ``cache``."""
    add_config(parser)
    parser.add_argument("--cache-gb", type=float, metavar="GB", help="at most so much (default: data.cache_gb)")
    add_workers(parser)


def cache(arguments: argparse.Namespace) -> None:
    """Fill the cache of a config."""
    from openseg.datasets.samples import Samples
    from openseg.datasets.splits import list_split

    if arguments.cache_gb is not None:
        arguments.overrides = [*arguments.overrides, f"data.cache_gb={arguments.cache_gb}"]
    config = config_of(arguments)
    if not config.data.cache_gb:
        raise ConfigError("a cache of 0 GB holds nothing; say how much it may take: --cache-gb 50")
    splits = dict.fromkeys([config.data.train_split, config.data.val_split])
    pairs = [pair for split in splits for pair in list_split(config, split)]
    samples = Samples(config)
    samples.cache.remove_leftovers()
    samples.cache.recount()
    skipped = 0
    for error in map_parallel(functools.partial(_fill, samples), pairs, "cache", arguments.workers):
        if error is not None:
            print(f"left out: {error}")
            skipped += 1
    used = samples.cache.recount()
    print(f"{samples.cache.folder}: {used / 1e9:.2f} GB of at most {config.data.cache_gb:g}")
    print(f"{len(pairs) - skipped} of {len(pairs)} samples read; train with data.cache_gb={config.data.cache_gb:g}")


def _fill(samples: Samples, pair: Pair) -> str | None:
    try:
        samples.fill_cache(pair)
    except OpensegError as error:
        return str(error)
    return None
