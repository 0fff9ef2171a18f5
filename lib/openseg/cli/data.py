"""``main.py check`` and ``main.py cache``."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import TYPE_CHECKING

from openseg.cli.common import add_experiment, add_workers, experiment_of
from openseg.config import DataConfig, Experiment
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.parallel import map_parallel

if TYPE_CHECKING:
    from openseg.data.check import SplitReport
    from openseg.data.folder import Pair
    from openseg.data.samples import Samples

__all__ = ["add_cache", "add_check", "cache", "check"]

EXIT_FOUND = 1


def add_check(parser: argparse.ArgumentParser) -> None:
    """The options of ``check``."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="YAML", help="an experiment: its training and validation samples")
    what.add_argument("--dataset", metavar="NAME", help="a data set of the catalog, or the YAML file of your own")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the experiment")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="with --dataset (default: data)")
    parser.add_argument("--split", nargs="+", metavar="SPLIT", help="default: those of the experiment, or train val")
    parser.add_argument("--json", metavar="FILE", help="write everything here as well")
    add_workers(parser)


def check(arguments: argparse.Namespace) -> int:
    """Read a data set and print what is wrong with it; 1 if something is."""
    from openseg.data.check import SplitReport, same_images
    from openseg.files import write_json
    from openseg.report.check import check_text

    experiment = _checked_experiment(arguments)
    data = experiment.data
    splits = arguments.split or [*data.train_split.split("+"), *data.val_split.split("+")]
    reports = []
    for split in dict.fromkeys(splits):
        report = SplitReport(split, experiment.catalog)
        _check_split(experiment, split, report, arguments.workers)
        print(f"{check_text(report)}\n")
        reports.append(report)
    across = same_images(reports)
    for text in across:
        print(f"warning: {text}")
    errors = sum(len(report.errors) for report in reports)
    warnings = sum(len(report.warnings) for report in reports) + len(across)
    print(f"{experiment.catalog.name}: {errors} errors, {warnings} warnings")
    if arguments.json:
        content = {"data set": experiment.catalog.name, "errors": errors, "warnings": across}
        write_json(arguments.json, content | {"splits": {report.name: report.as_dict() for report in reports}})
    return EXIT_FOUND if errors else 0


def _checked_experiment(arguments: argparse.Namespace) -> Experiment:
    if arguments.config:
        return experiment_of(arguments)
    if arguments.overrides:
        raise ConfigError(f"{arguments.overrides[0]}: overrides belong to --config; with --dataset use --data-root")
    from openseg.catalog import get_catalog

    get_catalog(arguments.dataset)  # its errors are better than those of a setting
    return Experiment(name="check", data=DataConfig(dataset=arguments.dataset, root=Path(arguments.data_root)))


def _check_split(experiment: Experiment, split: str, report: SplitReport, workers: int) -> None:
    from openseg.data.check import inspect
    from openseg.data.folder import list_split, split_paths, unmatched

    try:
        pairs, images, labels = unmatched(split_paths(experiment.catalog, experiment.data_dir, split))
        report.errors += [f"{path}: has no label; {hint}" for path, hint in images.items()]
        report.warnings += [f"{path}: has no image; {hint}" for path, hint in labels.items()]
        if experiment.task == "segfix" and not images:
            pairs = list_split(experiment, split)
    except DataError as error:
        report.errors.append(str(error))
        return
    work = functools.partial(inspect, experiment=experiment)
    for sample in map_parallel(work, pairs, f"check {split}", workers):
        report.add(sample)
    report.finish()


def add_cache(parser: argparse.ArgumentParser) -> None:
    """The options of ``cache``."""
    add_experiment(parser)
    parser.add_argument("--cache-gb", type=float, metavar="GB", help="at most so much (default: data.cache_gb)")
    add_workers(parser)


def cache(arguments: argparse.Namespace) -> None:
    """Fill the cache of an experiment."""
    from openseg.data.folder import list_split
    from openseg.data.samples import Samples

    if arguments.cache_gb is not None:
        arguments.overrides = [*arguments.overrides, f"data.cache_gb={arguments.cache_gb}"]
    experiment = experiment_of(arguments)
    if not experiment.data.cache_gb:
        raise ConfigError("a cache of 0 GB holds nothing; say how much it may take: --cache-gb 50")
    splits = dict.fromkeys([experiment.data.train_split, experiment.data.val_split])
    pairs = [pair for split in splits for pair in list_split(experiment, split)]
    samples = Samples(experiment)
    samples.cache.remove_leftovers()
    samples.cache.recount()
    skipped = 0
    for error in map_parallel(functools.partial(_fill, samples), pairs, "cache", arguments.workers):
        if error is not None:
            print(f"left out: {error}")
            skipped += 1
    used = samples.cache.recount()
    print(f"{samples.cache.folder}: {used / 1e9:.2f} GB of at most {experiment.data.cache_gb:g}")
    print(f"{len(pairs) - skipped} of {len(pairs)} samples read; train with data.cache_gb={experiment.data.cache_gb:g}")


def _fill(samples: Samples, pair: Pair) -> str | None:
    try:
        samples.fill_cache(pair)
    except OpensegError as error:
        return str(error)
    return None
