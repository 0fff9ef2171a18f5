"""``openseg.check`` and ``openseg.fill_cache``: whole datasets, read once."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from openseg.config import Config, DataConfig
from openseg.datasets.check import SplitReport, inspect, same_images
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.samples import Samples, list_split
from openseg.datasets.splits import Pair, split_paths, unmatched
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.parallel import map_parallel
from openseg.io.progress import show_progress
from openseg.tools.common import as_config
from openseg.tools.paths import PathLike, worker_count

__all__ = ["CacheResult", "CheckResult", "check", "fill_cache"]

logger = logging.getLogger("openseg")


@dataclass(frozen=True)
class CheckResult:
    """Findings in a dataset.

    Attributes:
        name: name of the dataset.
        splits: report per split, with ``errors`` and ``warnings``.
        warnings: about several splits together.
    """

    name: str
    splits: list[SplitReport]
    warnings: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[str]:
        """Errors of all splits."""
        return [error for report in self.splits for error in report.errors]

    @property
    def warning_count(self) -> int:
        """Warnings of all splits, and about several."""
        return sum(len(report.warnings) for report in self.splits) + len(self.warnings)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        content = {"dataset": self.name, "errors": len(self.errors), "warnings": self.warnings}
        return content | {"splits": {report.name: report.as_dict() for report in self.splits}}


def check(
    config: PathLike | Config | None = None,
    *,
    overrides: Sequence[str] = (),
    dataset: str | None = None,
    data_root: PathLike = "data",
    splits: Sequence[str] | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> CheckResult:
    """Read a whole dataset and collect its problems; nothing is changed, and errors of its files are not raised.

    Args:
        config: config, or path of its YAML file; its training and validation splits are checked.
        overrides: config values to override, as ``key.sub=value``.
        dataset: instead of ``config``: a built-in dataset, or the YAML file of your own, below ``data_root``.
        data_root: root folder of all datasets, with ``dataset``.
        splits: None is those of the config, or train and val.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        Findings by split, with ``errors`` and ``warnings``.

    Raises:
        ConfigError: neither or both are named, or one is invalid.

    For example:

        assert not openseg.check(dataset="fruit.yaml").errors
    """
    settings = _settings(config, overrides, dataset, data_root)
    data = settings.data
    names = splits or [name for split in data.splits for name in split.split("+")]
    reports = []
    with show_progress(progress):
        for split in dict.fromkeys(names):
            report = SplitReport(split, settings.dataset_info)
            _check_split(settings, split, report, worker_count(workers))
            reports.append(report)
    return CheckResult(settings.dataset_info.name, reports, same_images(reports))


def _settings(
    config: PathLike | Config | None, overrides: Sequence[str], dataset: str | None, data_root: PathLike
) -> Config:
    if (config is None) == (dataset is None):
        raise ConfigError("pass either a config or a dataset")
    if config is not None:
        return as_config(config, overrides)
    if overrides:
        raise ConfigError(f"{overrides[0]}: overrides belong to --config; with --dataset use --data-root")
    assert dataset is not None
    get_dataset_info(dataset)  # its errors are better than those of a setting
    return Config(name="check", data=DataConfig(dataset=dataset, root=Path(data_root)))


def _check_split(config: Config, split: str, report: SplitReport, workers: int) -> None:
    try:
        pairs, images, labels = unmatched(split_paths(config.dataset_info, config.data_dir, split))
        report.errors += [f"{path}: has no label; {hint}" for path, hint in images.items()]
        report.warnings += [f"{path}: has no image; {hint}" for path, hint in labels.items()]
        if config.needs_targets and not images:
            pairs = list_split(config, split)
    except DataError as error:
        report.errors.append(str(error))
        return
    work = functools.partial(inspect, config=config)
    for sample in map_parallel(work, pairs, f"check {split}", workers):
        report.add(sample)
    report.finish(config.predicts_labels)


@dataclass(frozen=True)
class CacheResult:
    """A filled cache: its folder, the bytes it uses and may use, the number of samples, and which cannot be read."""

    folder: Path
    used_bytes: int
    limit_bytes: int
    samples: int
    left_out: list[str]


def fill_cache(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    cache_gb: float | None = None,
    workers: int | None = None,
    progress: bool = True,
) -> CacheResult:
    """Decode the training and validation samples of a config into its cache.

    Args:
        config: config, or path of its YAML file.
        overrides: config values to override, as ``key.sub=value``.
        cache_gb: at most so many GB (1e9 bytes); None is ``data.cache_gb``.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        The cache folder, its size and limit in bytes, and samples that cannot be read.

    Raises:
        ConfigError: the cache holds nothing.
    """
    settings = as_config(config, overrides)
    if cache_gb is not None:
        settings = settings.model_copy(update={"data": settings.data.model_copy(update={"cache_gb": cache_gb})})
    if not settings.data.cache_gb:
        raise ConfigError("the cache size is 0 GB; set it with, for example, --cache-gb 50")
    splits = dict.fromkeys(settings.data.splits)
    pairs = [pair for split in splits for pair in list_split(settings, split)]
    samples = Samples(settings)
    samples.cache.remove_leftovers()
    samples.cache.recount()
    with show_progress(progress):
        work = functools.partial(_fill, samples)
        errors = [error for error in map_parallel(work, pairs, "cache", worker_count(workers)) if error is not None]
    return CacheResult(samples.cache.folder, samples.cache.recount(), samples.cache.limit, len(pairs), errors)


def _fill(samples: Samples, pair: Pair) -> str | None:
    try:
        samples.fill_cache(pair)
    except OpensegError as error:
        return str(error)
    return None
