"""Scores of label files and instance masks of any model, by processes; needs no torch.

Pairs are scored one by one and added in their order, so that any number of processes gives the same numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from openseg.catalog import IGNORE, UNKNOWN, Catalog, get_catalog
from openseg.errors import DataError
from openseg.files import index_files, list_files
from openseg.images import read_label
from openseg.metrics import DISTANCES, InstanceScores, LabelScores, PredictedInstance, joint_counts
from openseg.parallel import map_parallel

__all__ = [
    "Matched",
    "ScoredPair",
    "match_predictions",
    "read_instances",
    "require_none",
    "score_files",
    "score_instances",
]

_NAMED = 5
_LARGEST_FILE_ID = 999
Scores = TypeVar("Scores", LabelScores, InstanceScores)


class ScoredPair(NamedTuple):
    """A prediction, its truth, and for Cityscapes' iIoU the truth's instance map."""

    prediction: Path
    truth: Path
    instances: Path | None = None


class Matched(NamedTuple):
    """Pairs of a prediction and its truth, by key, and what has no partner, in words."""

    pairs: dict[str, tuple[Path, Path]]
    problems: list[str]


def match_predictions(folder: str | os.PathLike, truths: Mapping[str, Path], suffixes: tuple[str, ...]) -> Matched:
    """The predictions in a folder and the truths that share their names; ``_pred`` at a prediction's end is left out.

    Raises:
        DataError: no folder, no prediction in it, or two of one name.
    """
    found = index_files(list_files(folder, suffixes), "_pred")
    pairs = {key: (found[key], truth) for key, truth in truths.items() if key in found}
    problems = [f"{truth.name} has no prediction in {folder}" for key, truth in truths.items() if key not in found]
    problems += [f"{path} has no truth" for key, path in found.items() if key not in truths]
    return Matched(pairs, problems)


def score_files(
    pairs: Sequence[ScoredPair],
    dataset: str,
    distances: Sequence[int] = DISTANCES,
    what: str = "score",
    workers: int = 1,
    train_ids: bool = False,
    problems: list[str] | None = None,
) -> LabelScores:
    """Scores of label files.

    Args:
        distances: of the boundary F-score, in pixels; empty leaves boundary scores out.
        train_ids: the predictions hold training ids instead of the data set's own.
        problems: takes what is wrong with predictions, which are left out; None raises.

    Raises:
        DataError: a truth is damaged or holds an unknown id, and see ``problems``.
    """
    work = partial(_score_pair, dataset=dataset, distances=tuple(distances), train_ids=train_ids)
    return _add(map_parallel(work, pairs, what, workers), LabelScores(get_catalog(dataset), distances), problems)


def score_instances(
    pairs: Sequence[tuple[Path, Path]],
    dataset: str,
    what: str = "score",
    workers: int = 1,
    problems: list[str] | None = None,
) -> InstanceScores:
    """AP of instance masks: pairs of a prediction's list, see ``read_instances``, and the truth's instance map.

    Raises:
        DataError: an instance map is damaged, and see ``score_files`` of ``problems``.
        ConfigError: the data set has no classes of countable things.
    """
    work = partial(_score_masks, dataset=dataset)
    return _add(map_parallel(work, pairs, what, workers), _instance_scores(get_catalog(dataset)), problems)


def _add(results: Iterable[Scores | str], scores: Scores, problems: list[str] | None) -> Scores:
    found: list[str] = [] if problems is None else problems
    for result in results:
        if isinstance(result, str):
            found.append(result)
        else:
            scores += result
    if problems is None:
        require_none(found)
    return scores


def require_none(problems: Sequence[str]) -> None:
    """Raises DataError that names the first few of ``problems``."""
    if problems:
        more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
        raise DataError(
            f"{len(problems)} predictions are missing, left over or unfit: {'; '.join(problems[:_NAMED])}{more}. Mend "
            "that, or score the rest with --allow-missing"
        )


class _Map(NamedTuple):
    """A label file: its values in 8 bits, and the training id, ``IGNORE`` or ``UNKNOWN`` of each value."""

    path: Path
    raw: np.ndarray
    values: np.ndarray
    table: np.ndarray

    def require_known(self, present: np.ndarray, catalog: Catalog) -> None:
        """Raises DataError where one of the ``present: bool[256]`` values is ``UNKNOWN``."""
        unknown = np.flatnonzero(present & (self.table == UNKNOWN))
        if unknown.size:
            raise DataError(f"{self.path}: {catalog.explain_unknown(self.raw[np.isin(self.values, unknown)])}")

    def training_ids(self) -> np.ndarray:
        return cv2.LUT(self.values, self.table)


def _map_of(path: Path, raw: np.ndarray, catalog: Catalog) -> _Map:
    """Counting 8-bit ids as they are and looking up afterwards saves looking up every pixel."""
    if raw.dtype == np.uint8 and raw.ndim == 2:
        return _Map(path, raw, raw, catalog.byte_table)
    return _Map(path, raw, catalog.encode_known(raw), np.arange(256, dtype=np.uint8))


def _read_prediction(path: Path, catalog: Catalog, train_ids: bool) -> _Map:
    if catalog.label_colors and not train_ids:
        labels = catalog.read_prediction(path)
        return _Map(path, labels, labels, np.arange(256, dtype=np.uint8))
    raw = read_label(path)
    if not train_ids:
        return _map_of(path, raw, catalog)
    if raw.size and raw[raw != IGNORE].max(initial=0) >= catalog.num_classes:
        strange, known = raw[(raw != IGNORE) & (raw >= catalog.num_classes)].min(), catalog.num_classes - 1
        raise DataError(f"{path}: value {strange} is no training id; they are 0-{known} and {IGNORE}")
    return _Map(path, raw, raw.astype(np.uint8), np.arange(256, dtype=np.uint8))


def _score_pair(pair: ScoredPair, dataset: str, distances: tuple[int, ...], train_ids: bool) -> LabelScores | str:
    """Scores of one pair, or what is wrong with its prediction."""
    catalog = get_catalog(dataset, fresh=False)
    truth = _map_of(pair.truth, catalog.read_raw(pair.truth), catalog)
    try:
        prediction = _read_prediction(pair.prediction, catalog, train_ids)
        _require_size(prediction.values, truth.values, pair.prediction, pair.truth)
    except DataError as error:
        truth.require_known(np.bincount(truth.values.ravel(), minlength=256) > 0, catalog)
        return str(error)
    joint = joint_counts(prediction.values, truth.values)
    truth.require_known(joint.any(axis=1), catalog)
    scores = LabelScores(catalog, distances)
    try:
        prediction.require_known(joint.any(axis=0), catalog)
        scores.confusion.add_joint(joint, prediction.table, truth.table)
        _require_ids(scores, pair.prediction, train_ids)
    except DataError as error:
        return str(error)
    if distances:
        scores.update_boundaries(prediction.training_ids(), truth.training_ids())
    if pair.instances is not None and scores.official is not None:
        ids = catalog.decode(prediction.raw) if train_ids else prediction.raw
        scores.official.update(ids, truth.training_ids(), read_label(pair.instances))
    return scores


def _require_size(prediction: np.ndarray, truth: np.ndarray, path: Path, truth_path: Path) -> None:
    if prediction.shape != truth.shape:
        sizes = [f"{shape[0]} x {shape[1]}" for shape in (prediction.shape, truth.shape)]
        raise DataError(f"{path}: size {sizes[0]} differs from its truth {truth_path} {sizes[1]}")


def _require_ids(scores: LabelScores, path: Path, train_ids: bool) -> None:
    """Predictions in another id space are mostly no class where the truth is one."""
    counts = scores.confusion.counts
    share = counts[:, -1].sum() / max(counts.sum(), 1)
    if share > 0.5:
        other = "the data set's own ids" if train_ids else "training ids, which --train-ids reads"
        raise DataError(
            f"{path}: {100 * share:.0f} % of the labelled pixels are predicted as no class (are these {other}?)"
        )


def _instance_scores(catalog: Catalog) -> InstanceScores:
    names = dict(zip(catalog.ids, catalog.classes, strict=True))
    things = {file_id: names[file_id] for file_id in catalog.thing_ids if file_id in names}
    if not things:
        raise DataError(f"{catalog.name} has no thing_ids, classes whose objects are counted; add them to its file")
    return InstanceScores(things, catalog.ignored_ids, catalog.boundary_ratio)


def _score_masks(pair: tuple[Path, Path], dataset: str) -> InstanceScores | str:
    catalog = get_catalog(dataset, fresh=False)
    truth = read_label(pair[1])
    scores = _instance_scores(catalog)
    try:
        predictions = read_instances(pair[0])
        for each in predictions:
            _require_size(each.mask, truth, pair[0], pair[1])
    except DataError as error:
        return str(error)
    scores.update(predictions, truth)
    return scores


def read_instances(path: Path) -> list[PredictedInstance]:
    """Predicted instances of one image, as the Cityscapes benchmark takes them.

    Each line of the text file is a mask's path relative to it, the file id of its class, and a confidence; of a mask
    that is listed twice the last line counts.

    Raises:
        DataError: a line says something else, or a mask cannot be read; the message names file and line.
    """
    found: dict[Path, PredictedInstance] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            name, file_id, confidence = line.split()
            value, sure = int(float(file_id)), float(confidence)
        except ValueError:
            raise DataError(f"{path}, line {number}: write a mask's path, the id of its class, a confidence") from None
        if not 0 <= value <= _LARGEST_FILE_ID or np.isnan(sure) or Path(name).is_absolute():
            raise DataError(f"{path}, line {number}: the path is relative, the id of a class, the confidence a number")
        mask = path.parent / name
        found[mask] = PredictedInstance(read_label(mask) > 0, value, sure)
    return list(found.values())
