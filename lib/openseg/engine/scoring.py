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

from openseg.catalog import IGNORE, UNKNOWN, Catalog, get_catalog
from openseg.errors import DataError
from openseg.files import index_files, list_given
from openseg.images import color_mode, read_color_label, read_label, require_same_size
from openseg.metrics import DISTANCES, InstanceScores, Joint, LabelScores, PredictedInstance, joint_counts
from openseg.parallel import map_parallel

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
]

_NAMED = 5
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
    found = index_files(list_given(folder, suffixes), "_pred")
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
    seen: Callable[[int, LabelScores], None] | None = None,
) -> LabelScores:
    """Scores of label files.

    Args:
        distances: of the boundary F-score, in pixels; empty leaves boundary scores out.
        train_ids: the predictions hold training ids instead of the data set's own.
        problems: takes what is wrong with predictions, which are left out; None raises.
        seen: called with each pair's number and its own scores, in order.

    Raises:
        DataError: a truth is damaged or holds an unknown id, and see ``problems``.
    """
    work = partial(_score_pair, dataset=dataset, distances=tuple(distances), train_ids=train_ids)
    results = map_parallel(work, pairs, what, workers)
    return _add(results, LabelScores(get_catalog(dataset), distances), problems, seen)


def score_instances(
    pairs: Sequence[tuple[Path, Path]],
    dataset: str,
    what: str = "score",
    workers: int = 1,
    problems: list[str] | None = None,
) -> InstanceScores:
    """AP of instance masks: pairs of a prediction's list, see ``read_instances``, and the truth's instance map.

    Raises:
        DataError: an instance map is damaged, none holds an object, the data set has no countable classes; and see
            ``score_files`` of ``problems``.
    """
    work = partial(_score_masks, dataset=dataset)
    return _add(map_parallel(work, pairs, what, workers), _instance_scores(get_catalog(dataset)), problems)


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
        scores += result
        if seen is not None:
            seen(number, result)
    if problems is None:
        require_none(found)
    else:
        problems += found
    return scores


def require_none(problems: Sequence[str], mend: str = "") -> None:
    """Raises DataError that names the first few of ``problems``; ``mend`` says what else can be done."""
    if problems:
        raise DataError(f"{len(problems)} predictions are missing, left over or unfit: {first_of(problems)}{mend}")


def first_of(problems: Sequence[str]) -> str:
    """The first few problems, and how many there are beside them."""
    more = f"; and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return f"{'; '.join(problems[:_NAMED])}{more}"


class _Map(NamedTuple):
    """A label file: its values in 8 bits, and the training id, ``IGNORE`` or ``UNKNOWN`` of each value."""

    path: Path
    raw: np.ndarray
    values: np.ndarray
    table: np.ndarray

    def require_known(self, present: np.ndarray, catalog: Catalog) -> None:
        """Raises DataError where one of the values that are ``present`` is ``UNKNOWN``."""
        unknown = present[self.table[present] == UNKNOWN]
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
    identity = np.arange(256, dtype=np.uint8)
    if catalog.label_colors and not train_ids:
        if color_mode(path) in ("RGB", "RGBA"):
            return _map_of(path, read_color_label(path), catalog)
        labels = catalog.read_prediction(path)
        return _Map(path, labels, labels, identity)
    raw = read_label(path)
    if not train_ids:
        return _map_of(path, raw, catalog)
    strange = raw[(raw != IGNORE) & (raw >= catalog.num_classes)]
    if strange.size:
        known = f"0-{catalog.num_classes - 1} and {IGNORE}"
        raise DataError(f"{path}: value {strange.min()} is no training id; they are {known}")
    return _Map(path, raw, raw.astype(np.uint8), identity)


def read_prediction(path: Path, catalog: Catalog, train_ids: bool = False) -> np.ndarray:
    """A predicted label file as training ids ``uint8[H, W]``; what is no class is ``IGNORE`` or ``UNKNOWN``.

    Raises:
        DataError: it cannot be read.
    """
    return _read_prediction(path, catalog, train_ids).training_ids()


def _score_pair(pair: ScoredPair, dataset: str, distances: tuple[int, ...], train_ids: bool) -> LabelScores | str:
    """Scores of one pair, or what is wrong with its prediction."""
    catalog = get_catalog(dataset, fresh=False)
    truth = _map_of(pair.truth, catalog.read_raw(pair.truth), catalog)
    instances = None if pair.instances is None else read_label(pair.instances)
    if instances is not None:
        require_same_size(pair.instances, instances.shape, pair.truth, truth.values.shape)
    try:
        prediction = _read_prediction(pair.prediction, catalog, train_ids)
        require_same_size(pair.prediction, prediction.values.shape, pair.truth, truth.values.shape)
    except DataError as error:
        truth.require_known(np.unique(truth.values), catalog)
        return str(error)
    joint = joint_counts(prediction.values, truth.values)
    truth.require_known(joint.truth, catalog)
    try:
        prediction.require_known(joint.prediction, catalog)
        _require_right_ids(joint, prediction, truth, catalog, train_ids)
    except DataError as error:
        return str(error)
    scores = LabelScores(catalog, distances)
    scores.confusion.add_joint(joint, prediction.table, truth.table)
    maps = [prediction.training_ids(), truth.training_ids()] if distances or instances is not None else []
    if distances:
        scores.update_boundaries(*maps)
    if instances is not None and scores.official is not None:
        scores.official.update(catalog.decode(prediction.raw) if train_ids else prediction.raw, *maps, instances)
    return scores


def _require_right_ids(joint: Joint, prediction: _Map, truth: _Map, catalog: Catalog, train_ids: bool) -> None:
    """Raises DataError where reading the values of a prediction as the other kind of ids makes most of them right."""
    if catalog.label_colors:
        return
    other = catalog.byte_table if train_ids else np.arange(256, dtype=np.uint8)
    wanted = truth.table[joint.truth]
    valid = wanted < catalog.num_classes
    wanted, counts = wanted[valid, None], joint.counts[valid]
    total = max(counts.sum(), 1)
    as_read, as_other = (counts[table[joint.prediction] == wanted].sum() / total for table in (prediction.table, other))
    if as_other > 0.5 and as_other > 2 * as_read:
        meant = "the data set's own ids (without --train-ids)" if train_ids else "training ids (--train-ids)"
        raise DataError(
            f"{prediction.path}: {100 * as_read:.0f} % of the labelled pixels are right, but {100 * as_other:.0f} % if "
            f"its values are {meant}"
        )


def _instance_scores(catalog: Catalog) -> InstanceScores:
    names = dict(zip(catalog.ids, catalog.classes, strict=True))
    things = {file_id: names[file_id] for file_id in catalog.thing_ids if file_id in names}
    merged = {file_id for file_id, _ in catalog.merged_ids} & set(catalog.thing_ids)
    if not things or merged:
        what = f"thing_ids {sorted(merged)} are merged into another class" if merged else "no thing_ids"
        raise DataError(f"{catalog.name}: {what}; they are the ids of classes whose objects are counted")
    known = {*catalog.ids, *(file_id for file_id, _ in catalog.merged_ids)}
    return InstanceScores(things, sorted({*catalog.ignored_ids, IGNORE} - known), catalog.boundary_ratio)


def _score_masks(pair: tuple[Path, Path], dataset: str) -> InstanceScores | str:
    catalog = get_catalog(dataset, fresh=False)
    truth = read_label(pair[1])
    scores = _instance_scores(catalog)
    listed = Counter()

    def counted() -> Iterator[PredictedInstance]:
        for path, each in read_instances(pair[0]):
            require_same_size(path, each.mask.shape, pair[1], truth.shape)
            if each.file_id > IGNORE or catalog.byte_table[each.file_id] == UNKNOWN:
                raise DataError(f"{pair[0]}: {each.file_id} is no class id of {catalog.name}")
            listed[each.file_id in scores.classes] += 1
            yield each

    try:
        scores.update(counted(), truth)
        if listed[False] and not listed[True]:
            things = ", ".join(f"{file_id} {name}" for file_id, name in scores.classes.items())
            raise DataError(f"{pair[0]}: no mask is of a countable class ({things}); are these training ids?")
    except DataError as error:
        return str(error)
    return scores


def list_instances(path: Path) -> dict[Path, tuple[int, float]]:
    """File id and confidence by mask of one image's predicted instances, as the Cityscapes benchmark takes them.

    Each line of the text file is a mask's path relative to it, the file id of its class, and a confidence; of a mask
    that is listed twice the last line counts.

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
        except (ValueError, OverflowError):
            raise DataError(f"{path}, line {number}: write a mask's path, the id of its class, a confidence") from None
        if value < 0 or np.isnan(sure) or Path(name).is_absolute():
            raise DataError(f"{path}, line {number}: the path is relative, the id of a class, the confidence a number")
        found[path.parent / name] = value, sure
    return found


def read_instances(path: Path) -> Iterator[tuple[Path, PredictedInstance]]:
    """Predicted instances of one image and the files of their masks, see ``list_instances``; read one by one.

    Raises:
        DataError: the list or a mask cannot be read.
    """
    for mask, (value, sure) in list_instances(path).items():
        yield mask, PredictedInstance(read_label(mask) > 0, value, sure)
