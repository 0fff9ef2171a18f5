"""``openseg.report``: HTML report about label maps; needs no torch."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import list_images, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, is_older, list_files
from openseg.io.matching import index_files
from openseg.io.progress import show_progress
from openseg.io.results import list_given
from openseg.metrics import LabelScores
from openseg.plugins import load_plugins
from openseg.tools.evaluate import list_ground_truth
from openseg.tools.paths import PathLike, worker_count
from openseg.tools.report.html import MOST_SHOWN, PAGE, Report, curves_of
from openseg.tools.report.samples import Sample
from openseg.tools.scoring import match_predictions, require_none

__all__ = ["ReportResult", "report", "write_beside"]

logger = logging.getLogger("openseg")

_REFINED = "label_w_segfix"  # of openseg.refine


@dataclass(frozen=True)
class ReportResult:
    """The HTML report, the scores in it by result (empty without ground truth), and what was left out."""

    page: Path
    scores: Mapping[str, LabelScores] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Input:
    """What is reported: folders of labels, where the report goes, and what a training says about them."""

    labels: Path
    compare: Path | None
    out: Path
    metrics_file: Path | None = None
    dataset: str | None = None
    data_root: Path | None = None
    split: str | None = None
    metrics: tuple[str, ...] = ()


def report(
    folder: PathLike,
    *,
    dataset: str | None = None,
    compare: PathLike | None = None,
    names: Sequence[str] | None = None,
    ground_truth: PathLike | None = None,
    no_ground_truth: bool = False,
    images: PathLike | None = None,
    split: str | None = None,
    data_root: PathLike | None = None,
    train_ids: bool = False,
    allow_missing: bool = False,
    metrics: Sequence[str] | None = None,
    plugins: Sequence[str] = (),
    limit: int = MOST_SHOWN,
    out: PathLike | None = None,
    workers: int | None = None,
    progress: bool = True,
    on_scores: Callable[[Mapping[str, LabelScores]], None] | None = None,
) -> ReportResult:
    """Write an HTML report about label maps: scores, charts, every image, before and after.

    Args:
        folder: label maps, what ``validate`` or ``predict`` wrote, or the folder of a training below ``runs``.
        dataset: dataset name or YAML file, which defines the label IDs; a training run has its own.
        compare: second folder of labels to compare with, such as refined ones.
        names: display names of the results.
        ground_truth: true labels; None is those of the dataset's ``split``.
        no_ground_truth: show labels and differences without scores.
        images: None is those of the dataset's ``split``, if they exist.
        split: None is val, or of a training its own.
        data_root: None is data, or of a training its own.
        train_ids: the labels hold train IDs instead of label IDs.
        allow_missing: skip missing or invalid labels instead of failing.
        metrics: registered metrics to compute in addition; None is those of a training's config.
        plugins: Python modules to import first, which register metrics.
        limit: maximum number of images shown; scores cover all images.
        out: None is ``report`` inside the folder, or beside a folder of labels.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.
        on_scores: is called with the scores before the report is written, which may fail at a damaged image.

    Returns:
        The HTML file, the scores by result, and labels that were left out.

    Raises:
        ConfigError: arguments that contradict each other, or an unknown dataset or metric.
        DataError: files are missing or cannot be used.
    """
    if limit < 1:
        raise ConfigError(f"--limit {limit}: show at least one image")
    load_plugins(plugins)
    found = _find(Path(folder), compare, out, data_root, split, ground_truth)
    dataset = dataset or found.dataset
    if not dataset:
        raise ConfigError("pass the dataset of the labels, for example --dataset cityscapes")
    root, split = Path(data_root or found.data_root or "data"), split or found.split or "val"
    info = get_dataset_info(dataset)
    before, after = _predictions(found, compare is not None)
    folders = [found.labels] if after is None or found.compare is None else [found.labels, found.compare]
    predictions = [before] if after is None else [before, after]
    shown = _names(names, folders)
    truths: dict[str, Path] = {}
    instances: dict[str, Path] = {}
    if not no_ground_truth:
        truths, instances = list_ground_truth(info, ground_truth, root, split)
    wanted = truths or before
    problems = [text for each in folders for text in match_predictions(each, wanted, LABEL_SUFFIXES).problems]
    if not allow_missing:
        require_none(problems, "; fix that, or report the rest with --allow-missing")
    keys = [key for key in wanted if all(key in each for each in predictions)]
    pictures = _images(images, info, root, split, keys)
    samples = [Sample(key, tuple(p[key] for p in predictions), truths.get(key), pictures.get(key)) for key in keys]
    computed = found.metrics if metrics is None else metrics
    page = Report(samples, shown, dataset, train_ids, worker_count(workers), computed)
    with show_progress(progress):
        scores = page.score(instances, problems if allow_missing else None)
        if scores and on_scores is not None:
            on_scores(scores)
        curves = curves_of(found.metrics_file) if found.metrics_file else []
        page.write(found.out, _title(found, shown), curves, limit)
    return ReportResult(found.out / PAGE, scores, problems)


def write_beside(report: Report, out: Path, title: str) -> Path | None:
    """Write a report beside scores, which stand without it; returns the page, None where it cannot be written."""
    try:
        report.write(out, title)
    except DataError as error:
        logger.warning("no report: %s", error)
        return None
    return out / PAGE


def _predictions(found: _Input, asked: bool) -> tuple[dict[str, Path], dict[str, Path] | None]:
    """Label files by key, and the other ones; those that were found but not asked for only if they are up to date."""
    before = index_files(list_given(found.labels, LABEL_SUFFIXES), "_pred")
    if found.compare is None:
        return before, None
    after = index_files(list_given(found.compare, LABEL_SUFFIXES), "_pred")
    if not asked and any(key not in after or is_older(after[key], path) for key, path in before.items()):
        logger.info("%s is skipped: older than the labels, or incomplete; refine the labels again", found.compare)
        return before, None
    return before, after


def _find(
    folder: Path,
    compare: PathLike | None,
    out: PathLike | None,
    data_root: PathLike | None,
    split: str | None,
    ground_truth: PathLike | None,
) -> _Input:
    """Detect the kind of input folder."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of labels, results or a training")
    other, target = Path(compare) if compare else None, Path(out) if out else None
    if (folder / "config.yaml").is_file():
        return _of_training(folder, other, target, data_root, split, ground_truth)
    if (folder / "label").is_dir():
        return _Input(folder / "label", other or _if_exists(folder / _REFINED), target or folder / "report")
    folder = folder.resolve()
    target = target or folder.with_name(f"{folder.name}_report")
    return _Input(folder, other or _if_exists(folder / _REFINED), target)


def _of_training(
    folder: Path,
    compare: Path | None,
    out: Path | None,
    data_root: PathLike | None,
    split: str | None,
    ground_truth: PathLike | None,
) -> _Input:
    from openseg.config import load_config

    path = folder / "config.yaml"
    _load_plugins_of(folder / "starts.jsonl")
    config = load_config(path)
    if not config.predicts_labels:
        raise ConfigError(f"{path}: a training of task {config.task}; report the refined labels instead")
    split = split or config.data.validation_split
    if "+" in split and ground_truth is None:
        raise ConfigError(f"{path}: validates {split}; pass the folder of the ground truth with --gt")
    root = Path(data_root or config.data.root)
    labels = root / "seg_result" / config.dataset_info.name / f"{config.name}_val" / "label"
    if not labels.is_dir():
        raise DataError(f"{labels}: no labels of this training yet; run main.py val")
    return _Input(
        labels,
        compare or _if_exists(labels.with_name(_REFINED)),
        out or folder / "report",
        _if_exists(folder / "metrics.jsonl"),
        config.data.dataset,
        root,
        split,
        config.metrics,
    )


def _load_plugins_of(starts: Path) -> None:
    """Import the plugins of a training from where it found them."""
    lines = starts.read_text(encoding="utf-8").splitlines() if starts.is_file() else []
    for name, folders in (json.loads(lines[-1]).get("plugins", {}) if lines else {}).items():
        load_plugins([name], [Path(each) for each in folders])


def _title(found: _Input, names: list[str]) -> str:
    folder = found.labels.resolve()
    name = folder.parent.name if folder.name == "label" else folder.name
    return name if names in (["prediction"], ["before", "after"]) else " and ".join(names)


def _if_exists(path: Path) -> Path | None:
    return path if path.exists() else None


def _names(names: Sequence[str] | None, folders: list[Path]) -> list[str]:
    if names:
        if len(names) != len(folders) or len(set(names)) < len(names):
            raise ConfigError(f"--names takes {len(folders)} different names here, not {' '.join(names)}")
        return [*names]
    if len(folders) == 1:
        return ["prediction"]
    if folders[1].name.startswith(_REFINED):
        return ["before", "after"]
    first, second = (folder.resolve().parts for folder in folders)
    different = next(
        (pair for pair in zip(reversed(first), reversed(second), strict=False) if pair[0] != pair[1]), None
    )
    return [*different] if different else ["before", "after"]


def _images(
    folder: PathLike | None, info: DatasetInfo, data_root: Path, split: str, keys: list[str]
) -> dict[str, Path]:
    """Images by key; of the dataset where they exist."""
    if folder is None:
        try:
            return index_files(list_images(split_paths(info, data_root / info.folder, split)))
        except DataError as error:
            logger.info("without images, pass them with --images (%s)", error)
            return {}
    images = index_files(list_files(folder))
    missing = [key for key in keys if key not in images]
    if missing:
        raise DataError(f"{folder}: {len(missing)} of {len(keys)} labels have no image there, such as {missing[0]}")
    return images
