"""``openseg.tune``: which scale, confidence and width refine the labels of a model best."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openseg.datasets.registry import get_dataset_info
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, list_files
from openseg.io.images import read_label
from openseg.io.matching import match_files
from openseg.io.parallel import map_parallel
from openseg.io.progress import show_progress
from openseg.metrics import LabelScores
from openseg.segfix import read_offset_map
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.paths import PathLike, existing_dir, worker_count
from openseg.tools.refine import list_labels
from openseg.tools.refining import RefineSettings
from openseg.tools.scoring import ScoredPair, score_files

__all__ = ["CONFIDENCES", "SCALES", "STEPS", "WIDTHS", "Tuning", "tune"]

SCALES, CONFIDENCES, WIDTHS, STEPS = (1, 2, 3), (0.0, 0.2, 0.3, 0.4, 0.5, 0.6), (0, 5), (1,)
DISTANCES = (1, 3)
_MOST_LOST = 0.25  # points of IoU
_LOOKED_AT = 4  # images, to see which ids the labels hold
Setting = tuple[int, float, int, int]
Job = tuple[Path, Path, OffsetFile]


@dataclass(frozen=True)
class Tuning:
    """What settings change.

    Attributes:
        images: how many label maps have both ground truth and offsets, of ``total`` ground truth files.
        before: scores of the labels as they are.
        rows: of each setting its ``scale``, ``min_confidence``, ``keep_thin`` and ``steps``, and the changes in points.
        best: the row with the largest gain of boundary F-scores that costs no mean IoU and no class more than a quarter
            of a point; None where no setting helps.
    """

    images: int
    total: int
    before: LabelScores
    rows: list[dict[str, Any]]
    best: dict[str, Any] | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"before": self.before.compute(), "settings": self.rows}


def tune(
    labels: PathLike,
    *,
    ground_truth: PathLike,
    offsets: PathLike,
    dataset: str = "cityscapes",
    scales: Sequence[int] = SCALES,
    confidences: Sequence[float] = CONFIDENCES,
    keep_thin: Sequence[int] = WIDTHS,
    steps: Sequence[int] = STEPS,
    train_ids: bool = False,
    workers: int | None = None,
    progress: bool = True,
) -> Tuning:
    """Try and score every combination of settings of ``refine``.

    Use images that neither SegFix nor the model was trained on, and others than those whose scores you will report.

    Args:
        labels: folder of the model's label maps.
        ground_truth: folder of ground truth label maps.
        offsets: folder or zip archive of the images' offsets.
        dataset: built-in dataset name, or YAML file of your own dataset; defines the label IDs.
        scales: step lengths to try, in pixels.
        confidences: minimum confidences to try, from 0 to 1.
        keep_thin: widths to try, in pixels.
        steps: numbers of repetitions to try.
        train_ids: the labels hold train IDs instead of label IDs.
        workers: number of processes; None is one for each core.
        progress: show progress bars on a terminal.

    Returns:
        The changes of each setting, and the best one.

    Raises:
        ConfigError: nothing to try.
        DataError: no label has both, or a file cannot be used.
    """
    for name, values in (("scales", scales), ("confidences", confidences), ("keep-thin", keep_thin), ("steps", steps)):
        if not values:
            raise ConfigError(f"{name}: name at least one to try")
    settings = list(itertools.product(scales, confidences, keep_thin, steps))
    for setting in settings:
        _way(dataset, setting)  # what is out of range is said first
    source, folder = existing_dir(labels, "labels of a model"), existing_dir(ground_truth, "true labels")
    truths = {path.relative_to(folder).as_posix(): path for path in list_files(folder, LABEL_SUFFIXES)}
    names, files = list_labels(source), list_offsets(offsets)
    true, moved = match_files(names, [*truths])[0], match_files(names, [*files])[0]
    jobs = [(source / name, truths[true[name]], files[moved[name]]) for name in names if name in true and name in moved]
    if not jobs:
        raise DataError(f"{source}: no label has both ground truth in {ground_truth} and an offset in {offsets}")
    first = [ScoredPair(*job[:2]) for job in jobs[:_LOOKED_AT]]
    score_files(first, dataset, (), train_ids=train_ids)  # refuses ids of the other kind
    info = get_dataset_info(dataset)
    totals = [LabelScores(info, DISTANCES) for _ in range(1 + len(settings))]
    work = partial(_score_job, dataset=dataset, settings=settings, train_ids=train_ids)
    with show_progress(progress):
        for found in map_parallel(work, jobs, "tune", worker_count(workers)):
            for total, scores in zip(totals, found, strict=True):
                total.merge(scores)
    rows = [_row(totals[0], scores, setting) for setting, scores in zip(settings, totals[1:], strict=True)]
    return Tuning(len(jobs), len(truths), totals[0], rows, _best(rows))


def _best(rows: list[dict[str, Any]]) -> dict[str, Any] | None:
    harmless = [row for row in rows if row["mIoU"] >= 0 and row["its IoU"] >= -_MOST_LOST]
    gains = [sum(row[f"F {distance} px"] for distance in DISTANCES) for row in harmless]
    return harmless[gains.index(max(gains))] if gains and max(gains) > 0 else None


def _way(dataset: str, setting: Setting) -> RefineSettings:
    scale, confidence, width, steps = setting
    return RefineSettings(dataset, scale, confidence, keep_thin=width, steps=steps)


def _score_job(job: Job, dataset: str, settings: list[Setting], train_ids: bool) -> list[LabelScores]:
    """Scores of one image's labels as they are, and refined with each setting."""
    label, truth_path, offset = job
    info = get_dataset_info(dataset, fresh=False)
    labels = read_label(label) if train_ids else info.read_prediction(label)
    truth, offsets = info.read_truth(truth_path), read_offset_map(offset)
    if labels.shape != truth.shape or offsets.shape != truth.shape:
        raise DataError(f"{label}, {truth_path} and {offset} differ in size")
    results = []
    for refined in [labels, *(_way(dataset, setting)(labels, offsets) for setting in settings)]:
        scores = LabelScores(info, DISTANCES)
        scores.update(refined, truth)
        results.append(scores)
    return results


def _row(before: LabelScores, after: LabelScores, setting: Setting) -> dict[str, Any]:
    """The changes of a setting, in points."""
    base = before.compute()
    gains = {name: 100 * (value - base[name]) for name, value in after.compute().items()}
    classes = {name: 100 * (value - before.by_class[name]) for name, value in after.by_class.items()}
    known = {name: change for name, change in classes.items() if not np.isnan(change)}
    worst = min(known, key=lambda name: known[name], default="-")
    boundary = [gains[f"boundary F {distance} px"] for distance in DISTANCES]
    row = dict(zip(("scale", "min_confidence", "keep_thin", "steps"), setting, strict=True)) | {"mIoU": gains["mIoU"]}
    row |= {f"F {distance} px": gain for distance, gain in zip(DISTANCES, boundary, strict=True)}
    return {**row, "worst class": worst, "its IoU": known.get(worst, 0.0)}
