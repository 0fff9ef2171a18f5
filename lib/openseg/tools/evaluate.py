"""``openseg.evaluate``: scores of label files and instance masks of any model; needs no torch."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_truths, require_partners, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, list_files
from openseg.io.matching import index_files
from openseg.io.progress import show_progress
from openseg.metrics import DISTANCES, CityscapesCounts, InstanceScores, LabelScores
from openseg.plugins import load_plugins
from openseg.tools.paths import PathLike, worker_count
from openseg.tools.scoring import ScoredPair, match_predictions, require_none, score_files, score_instances

__all__ = ["Evaluation", "evaluate", "instance_maps", "list_ground_truth"]

logger = logging.getLogger("openseg")

_RAW_LABELS, _RAW_INSTANCES = "_labelIds", "_instanceIds"


@dataclass(frozen=True)
class Evaluation:
    """Scores of folders of predictions.

    Attributes:
        scores: by folder; of label maps ``LabelScores``, of instance masks ``InstanceScores``.
        left_out: what was not scored and why, by folder.
    """

    scores: Mapping[str, LabelScores | InstanceScores]
    left_out: Mapping[str, list[str]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain values."""
        values: dict[str, dict[str, Any]] = {name: scores.as_dict() for name, scores in self.scores.items()}
        for name, problems in self.left_out.items():
            values[name]["left_out"] = problems
        return values


def evaluate(
    predictions: PathLike | Sequence[PathLike],
    *,
    dataset: str,
    ground_truth: PathLike | None = None,
    split: str = "val",
    data_root: PathLike = "data",
    instances: bool = False,
    train_ids: bool = False,
    allow_missing: bool = False,
    distances: Sequence[int] = DISTANCES,
    metrics: Sequence[str] = (),
    plugins: Sequence[str] = (),
    workers: int | None = None,
    progress: bool = True,
) -> Evaluation:
    """Score folders of predictions of any model.

    Args:
        predictions: one or more folders of label maps, or with ``instances`` of ``<name>_pred.txt`` mask lists.
        dataset: built-in dataset name, or YAML file of your own dataset; defines the label IDs.
        ground_truth: folder of ground truth; None is that of the dataset's ``split`` below ``data_root``.
        split: split of the ground truth, without ``ground_truth``.
        data_root: root folder of all datasets, without ``ground_truth``.
        instances: score instance masks (AP) instead of label maps.
        train_ids: the label maps hold train IDs (0, 1, 2, ...) instead of the dataset's label IDs.
        allow_missing: skip missing or invalid predictions instead of failing.
        distances: distances of the boundary F-score in pixels; none: no boundary scores, faster.
        metrics: registered metrics to compute in addition.
        plugins: Python modules to import first, which register metrics.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        Scores of each folder, and predictions that were left out.

    Raises:
        ConfigError: an unknown dataset or metric, or a distance that is not from 1 to 100.
        DataError: a ground truth file cannot be used, or without ``allow_missing`` a prediction is missing or invalid.

    For example:

        scores = openseg.evaluate("results/label", dataset="cityscapes", ground_truth="gtFine/val").scores
        print(scores["results/label"].compute()["mIoU"])
    """
    if instances and (train_ids or metrics):
        raise ConfigError("train_ids and metrics are about label maps, not about instance masks")
    if not all(0 < distance <= 100 for distance in distances):
        raise ConfigError(f"distances {', '.join(map(str, distances))}: use 1 to 100 pixels")
    load_plugins(plugins)
    folders = [predictions] if isinstance(predictions, str) or not isinstance(predictions, Sequence) else predictions
    info = get_dataset_info(dataset)
    truths, maps = list_ground_truth(info, ground_truth, data_root, split, instances)
    suffixes = (".txt",) if instances else LABEL_SUFFIXES
    matched = {str(folder): match_predictions(folder, truths, suffixes) for folder in folders}
    fix = "" if allow_missing else "; fix that, or score the rest with --allow-missing"
    scores: dict[str, LabelScores | InstanceScores] = {}
    left_out: dict[str, list[str]] = {}
    with show_progress(progress):
        for folder, found in matched.items():
            problems = list(found.problems)
            if fix:
                require_none(problems, fix)
            if not found.pairs:
                example = next(iter(truths.values()))
                raise DataError(f"{folder}: no prediction has the name of a ground truth file, such as {example}")
            if instances:
                pairs = [*found.pairs.values()]
                scores[folder] = score_instances(pairs, dataset, workers=worker_count(workers), problems=problems)
            else:
                scores[folder] = score_files(
                    [ScoredPair(*pair, maps.get(key)) for key, pair in found.pairs.items()],
                    dataset,
                    distances,
                    workers=worker_count(workers),
                    train_ids=train_ids,
                    problems=problems,
                    metrics=metrics,
                )
            if fix or len(problems) - len(found.problems) == len(found.pairs):
                require_none(problems, fix)
            if problems:
                left_out[folder] = problems
    if instances and all(np.isnan(each.compute()["AP"]) for each in scores.values()):
        raise DataError(
            f"no ground truth, such as {next(iter(truths.values()))}, contains an object of 100 pixels (ID * 1000 + n)"
        )
    return Evaluation(scores, left_out)


def list_ground_truth(
    info: DatasetInfo, folder: PathLike | None, data_root: PathLike, split: str, instances: bool = False
) -> tuple[dict[str, Path], dict[str, Path]]:
    """Ground truth by key, label maps or with ``instances`` instance maps; and instance maps for Cityscapes' iIoU.

    Args:
        folder: None is the dataset's ``split`` below ``data_root``.
    """
    if folder is not None:
        labels, maps = _raw_truths(Path(folder))
        if instances:
            return maps or labels, {}
        if maps:
            require_partners(labels, maps, "instance map", Path(folder))
        return labels, maps
    paths = split_paths(info, Path(data_root) / info.folder, split)
    labels = list_truths(paths)
    if not instances:
        return labels, instance_maps(info, paths, labels)
    if not paths.instance.is_dir():
        raise DataError(f"{paths.instance}: no such folder of instance maps; prepare them, or pass one with --gt")
    maps = index_files(list_files(paths.instance, LABEL_SUFFIXES))
    require_partners(labels, maps, "instance map", paths.instance)
    return {key: maps[key] for key in labels}, {}


def _raw_truths(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Labels and instance maps of a folder; Cityscapes' own one also holds other files of the same names."""
    files = list_files(folder, LABEL_SUFFIXES)
    labels = [path for path in files if path.stem.endswith(_RAW_LABELS)]
    instances = [path for path in files if path.stem.endswith(_RAW_INSTANCES)]
    return index_files(labels or files), index_files(instances)


def instance_maps(info: DatasetInfo, split: SplitPaths, keys: Collection[str]) -> dict[str, Path]:
    """The instance maps of Cityscapes' samples, where the split has all of them; for iIoU."""
    if not CityscapesCounts.fits(info) or not split.instance.is_dir():
        return {}
    maps = index_files(list_files(split.instance, LABEL_SUFFIXES))
    missing = sum(key not in maps for key in keys)
    if missing:
        logger.warning("no iIoU: %d of %d instance maps are not in %s", missing, len(keys), split.instance)
        return {}
    return {key: maps[key] for key in keys}
