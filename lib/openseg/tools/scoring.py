"""Scores of label files and instance masks of any model, by processes; needs no torch.

Pairs are scored one by one and added in their order, so that any number of processes gives the same numbers.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.errors import DataError
from openseg.io.blob import HeldFile
from openseg.io.files import IMAGE_SUFFIXES
from openseg.io.images import read_label, require_same_size
from openseg.io.matching import index_files
from openseg.io.parallel import map_parallel
from openseg.io.results import list_given
from openseg.labels import IGNORE_INDEX, UNKNOWN
from openseg.metrics import DISTANCES, InstanceScores, JointCounts, LabelScores, PredictedInstance, joint_counts

__all__ = [
    "Matched",
    "ScoredPair",
    "first_of",
    "list_instances",
    "match_predictions",
    "read_instances",
    "read_prediction",
    "require_none",
    "score_files",
    "score_instances",
    "score_pair",
]

_NAMED = 5
Scores = TypeVar("Scores", LabelScores, InstanceScores)


class ScoredPair(NamedTuple):
    """A prediction, its ground truth, and the instance map for Cityscapes' iIoU."""

    prediction: Path | HeldFile
    truth: Path | HeldFile
    instances: Path | HeldFile | None = None


class Matched(NamedTuple):
    """Pairs of prediction and ground truth by key, and messages about unmatched files."""

    pairs: dict[str, tuple[Path, Path]]
    problems: list[str]


def match_predictions(folder: str | os.PathLike, truths: Mapping[str, Path], suffixes: tuple[str, ...]) -> Matched:
    """Match the predictions in a folder with ground truth files of the same name; ``_pred`` is ignored.

    Raises:
        DataError: no folder, no prediction in it, or two of one name.
    """
    found = index_files(list_given(folder, suffixes, IMAGE_SUFFIXES if ".txt" in suffixes else ()), "_pred")
    pairs = {key: (found[key], truth) for key, truth in truths.items() if key in found}
    problems = [f"{truth.name} has no prediction in {folder}" for key, truth in truths.items() if key not in found]
    problems += [f"{path} has no ground truth" for key, path in found.items() if key not in truths]
    return Matched(pairs, problems)


def score_files(
    pairs: Sequence[ScoredPair],
    dataset: str,
    distances: Sequence[int] = DISTANCES,
    what: str = "score",
    workers: int = 1,
    train_ids: bool = False,
    problems: list[str] | None = None,
    seen: Callable[[int, LabelScores], None] | None = None,
    metrics: Sequence[str] = (),
) -> LabelScores:
    """Scores of label files.

    Args:
        distances: of the boundary F-score, in pixels; empty leaves boundary scores out.
        train_ids: the predictions hold train IDs instead of the dataset's own.
        problems: takes what is wrong with predictions, which are left out; None raises.
        seen: called with each pair's number and its own scores, in order.
        metrics: registered metrics to compute in addition.

    Raises:
        DataError: a ground truth is damaged or holds an unknown id, and see ``problems``.
    """
    work = partial(score_pair, dataset=dataset, distances=tuple(distances), train_ids=train_ids, metrics=metrics)
    results = map_parallel(work, pairs, what, workers)
    return _add(results, LabelScores(get_dataset_info(dataset), distances, metrics), problems, seen)


def score_instances(
    pairs: Sequence[tuple[Path, Path]],
    dataset: str,
    what: str = "score",
    workers: int = 1,
    problems: list[str] | None = None,
    root: Path | None = None,
) -> InstanceScores:
    """AP of instance masks: pairs of a prediction's list, see ``read_instances``, and the ground truth's instance map.

    Raises:
        DataError: an instance map is damaged, none holds an object, the dataset has no countable classes; and see
            ``score_files`` of ``problems``.
    """
    work = partial(_score_masks, dataset=dataset, root=root)
    return _add(map_parallel(work, pairs, what, workers), _instance_scores(get_dataset_info(dataset)), problems)


def _add(
    results: Iterable[Scores | str],
    scores: Scores,
    problems: list[str] | None,
    seen: Callable[[int, Scores], None] | None = None,
) -> Scores:
    found: list[str] = []
    for number, result in enumerate(results):
        if isinstance(result, str):
            found.append(result)
            continue
        scores.merge(result)  # type: ignore[arg-type]
        if seen is not None:
            seen(number, result)
    if problems is None:
        require_none(found)
    else:
        problems += found
    return scores


def require_none(problems: Sequence[str], fix: str = "") -> None:
    """Raise DataError with the first few of ``problems``; ``fix`` is the remedy."""
    if problems:
        raise DataError(f"{len(problems)} predictions are missing, unmatched or invalid: {first_of(problems)}{fix}")


def first_of(problems: Sequence[str]) -> str:
    """Return the first few problems and the number of others."""
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return f"{'; '.join(problems[:_NAMED])}{more}"


class _Map(NamedTuple):
    """A label file: its values in 8 bits, and the train ID, ``IGNORE_INDEX`` or ``UNKNOWN`` of each value.

    ``raw`` are its ids. ``colors`` says that its classes were told by color, or the dataset's are.
    """

    path: Path | HeldFile
    raw: np.ndarray
    values: np.ndarray
    table: np.ndarray
    colors: bool = False

    def require_known(self, present: np.ndarray, info: DatasetInfo) -> None:
        """Raises DataError where one of the values that are ``present`` is ``UNKNOWN``."""
        unknown = present[self.table[present] == UNKNOWN]
        if unknown.size:
            raise DataError(f"{self.path}: {info.explain_unknown(self.raw[np.isin(self.values, unknown)])}")

    def training_ids(self) -> np.ndarray:
        return cv2.LUT(self.values, self.table)


def _map_of(path: Path | HeldFile, raw: np.ndarray, info: DatasetInfo) -> _Map:
    """Counting 8-bit ids as they are and looking up afterwards saves looking up every pixel."""
    if raw.dtype == np.uint8 and raw.ndim == 2:
        return _Map(path, raw, raw, info.byte_table)
    return _Map(path, raw, info.encode_known(raw), np.arange(256, dtype=np.uint8))


def _read_prediction(path: Path | HeldFile, info: DatasetInfo, train_ids: bool) -> _Map:
    identity = np.arange(256, dtype=np.uint8)
    if not train_ids:
        raw = info.read_raw_prediction(path)
        if raw.ndim == 3:
            labels = info.encode_colors(raw, path)
            return _Map(path, info.decode(labels), labels, identity, colors=True)
        if info.label_colors:  # ids of a dataset that names none: what is no class is a miss
            return _Map(path, raw, info.encode_prediction(raw), identity, colors=True)
        return _map_of(path, raw, info)
    raw = read_label(path)
    strange = raw[(raw != IGNORE_INDEX) & (raw >= info.num_classes)]
    if strange.size:
        known = f"0-{info.num_classes - 1} and {IGNORE_INDEX}"
        raise DataError(f"{path}: value {strange.min()} is not a valid train ID (expected {known})")
    return _Map(path, raw, raw.astype(np.uint8), identity)


def read_prediction(path: Path, info: DatasetInfo, train_ids: bool = False) -> np.ndarray:
    """A predicted label file as train IDs ``uint8[H, W]``; what is no class is ``IGNORE_INDEX`` or ``UNKNOWN``.

    Raises:
        DataError: it cannot be read.
    """
    return _read_prediction(path, info, train_ids).training_ids()


def score_pair(
    pair: ScoredPair, dataset: str, distances: tuple[int, ...], train_ids: bool, metrics: Sequence[str]
) -> LabelScores | str:
    """Scores of one pair, or what is wrong with its prediction."""
    info = get_dataset_info(dataset, fresh=False)
    truth = _map_of(pair.truth, info.read_raw(pair.truth), info)
    instances = None if pair.instances is None else read_label(pair.instances)
    if instances is not None:
        require_same_size(pair.instances, instances.shape, pair.truth, truth.values.shape)
    try:
        prediction = _read_prediction(pair.prediction, info, train_ids)
        require_same_size(pair.prediction, prediction.values.shape, pair.truth, truth.values.shape)
    except DataError as error:
        truth.require_known(np.unique(truth.values), info)
        return str(error)
    joint = joint_counts(prediction.values, truth.values)
    truth.require_known(joint.truth, info)
    try:
        prediction.require_known(joint.prediction, info)
        _require_right_ids(joint, prediction, truth, info, train_ids)
    except DataError as error:
        return str(error)
    scores, joint = LabelScores(info, distances, metrics), joint.mapped(prediction.table, truth.table)
    if not scores.reads_pixels and instances is None:  # saves looking up every pixel
        scores.confusion.add(joint)
        return scores
    scores.update(
        prediction.training_ids(),
        truth.training_ids(),
        joint=joint,
        instances=instances,
        ids=None if instances is None else info.decode(prediction.raw) if train_ids else prediction.raw,
    )
    return scores


def _require_right_ids(joint: JointCounts, prediction: _Map, truth: _Map, info: DatasetInfo, train_ids: bool) -> None:
    """Raises DataError where reading the values of a prediction as the other kind of ids makes most of them right."""
    if prediction.colors:
        return
    other = info.byte_table if train_ids else np.arange(256, dtype=np.uint8)
    wanted = truth.table[joint.truth]
    valid = wanted < info.num_classes
    wanted, counts = wanted[valid, None], joint.counts[valid]
    total = max(counts.sum(), 1)
    as_read, as_other = (counts[table[joint.prediction] == wanted].sum() / total for table in (prediction.table, other))
    if as_other > 0.5 and as_other > 2 * as_read:
        meant = "the dataset's own ids (without --train-ids)" if train_ids else "train IDs (--train-ids)"
        raise DataError(
            f"{prediction.path}: {100 * as_read:.0f} % of the labeled pixels are correct, but {100 * as_other:.0f} % "
            f"if its values are {meant}"
        )


def _instance_scores(info: DatasetInfo) -> InstanceScores:
    names = dict(zip(info.ids, info.classes, strict=True))
    things = {file_id: names[file_id] for file_id in info.thing_ids if file_id in names}
    merged = {file_id for file_id, _ in info.merged_ids} & set(info.thing_ids)
    if not things or merged:
        what = f"thing_ids {sorted(merged)} are merged into another class" if merged else "no thing_ids"
        raise DataError(f"{info.name}: {what}; they are the ids of classes whose objects are counted")
    known = {*info.ids, *(file_id for file_id, _ in info.merged_ids)}
    return InstanceScores(things, sorted({*info.ignored_ids, IGNORE_INDEX} - known), info.boundary_ratio)


def _score_masks(pair: tuple[Path, Path], dataset: str, root: Path | None = None) -> InstanceScores | str:
    info = get_dataset_info(dataset, fresh=False)
    truth = read_label(pair[1])
    scores = _instance_scores(info)
    listed: Counter[bool] = Counter()

    def counted() -> Iterator[PredictedInstance]:
        for path, each in read_instances(pair[0], root):
            require_same_size(path, each.mask.shape, pair[1], truth.shape)
            if each.file_id > IGNORE_INDEX or info.byte_table[each.file_id] == UNKNOWN:
                raise DataError(f"{pair[0]}: {each.file_id} is not a valid label ID of {info.name}")
            listed[each.file_id in scores.classes] += 1
            yield each

    try:
        scores.update(counted(), truth)
        if listed[False] and not listed[True]:
            things = ", ".join(f"{file_id} {name}" for file_id, name in scores.classes.items())
            raise DataError(f"{pair[0]}: no mask is of a countable class ({things}); are these train IDs?")
    except DataError as error:
        return str(error)
    return scores


def list_instances(path: Path, root: Path | None = None) -> dict[Path, tuple[int, float]]:
    """Label ID and confidence by mask of one image's predicted instances, as the Cityscapes benchmark takes them.

    Each line of the text file is a mask's path relative to it, the label ID of its class, and a confidence; of a mask
    that is listed twice the last line counts. Masks lie below ``root``, if one is given.

    Raises:
        DataError: a line says something else; the message names file and line.
    """
    found: dict[Path, tuple[int, float]] = {}
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
            if value != float(file_id):
                raise ValueError
        except (ValueError, OverflowError):
            raise DataError(f"{path}, line {number}: write a mask's path, the id of its class, a confidence") from None
        if root is not None and not (path.parent / name).resolve().is_relative_to(root.resolve()):
            raise DataError(f"{path}, line {number}: {name} lies outside of {root}")
        if value < 0 or not np.isfinite(sure) or Path(name).is_absolute():
            raise DataError(f"{path}, line {number}: the path is relative, the id of a class, the confidence a number")
        found[path.parent / name] = value, sure
    return found


def read_instances(path: Path, root: Path | None = None) -> Iterator[tuple[Path, PredictedInstance]]:
    """Predicted instances of one image and the files of their masks, see ``list_instances``; read one by one.

    Raises:
        DataError: the list or a mask cannot be read.
    """
    for mask, (value, sure) in list_instances(path, root).items():
        yield mask, PredictedInstance(read_label(mask) > 0, value, sure)
