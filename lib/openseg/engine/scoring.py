"""Scores of label files; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openseg.catalog import get_catalog
from openseg.errors import DataError
from openseg.metrics import LabelScores
from openseg.progress import progress

__all__ = ["score_files"]


def score_files(
    files: Sequence[tuple[Path, Path]], dataset: str, distances: Sequence[int] = (1, 3, 5), what: str = "score"
) -> LabelScores:
    """Scores of (prediction, truth) label files in the data set's ids.

    Raises:
        DataError: a pair differs in size, a file is damaged, or a truth holds an unknown id.
    """
    catalog = get_catalog(dataset)
    scores = LabelScores(catalog.classes, distances)
    for prediction, truth in progress(files, len(files), what):
        predicted, true = catalog.read_prediction(prediction), catalog.read_truth(truth)
        if predicted.shape != true.shape:
            raise DataError(f"{prediction}: size {predicted.shape} differs from its truth {truth} {true.shape}")
        scores.update(predicted, true)
    return scores
