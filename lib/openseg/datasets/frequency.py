"""How often each class occurs in the training split, for class weights and copy-paste."""

from __future__ import annotations

import numpy as np

from openseg.config import Config
from openseg.datasets.check import suggest_weights
from openseg.datasets.samples import Samples, list_split
from openseg.labels import IGNORE_INDEX

__all__ = ["count_classes", "frequency_weights", "rare_classes"]

_MOST_LABELS = 2000
_RARE = 0.25  # of an equal share


def count_classes(config: Config) -> np.ndarray:
    """Pixels of each class in the training split, ``int64[K]``; of 2000 label maps spread over a larger split.

    Raises:
        DataError: the split or one of the label maps cannot be read.
    """
    key = f"{config.data_dir} {config.data.train_split} {config.dataset_info.fingerprint}"
    if key not in _COUNTS:
        _COUNTS[key] = _count(config)
    return _COUNTS[key]


_COUNTS: dict[str, np.ndarray] = {}
"""Of splits that were counted, since the weights and copy-paste may both ask."""


def _count(config: Config) -> np.ndarray:
    pairs = list_split(config, config.data.train_split)
    places = np.unique(np.linspace(0, len(pairs) - 1, min(len(pairs), _MOST_LABELS)).astype(int))
    samples, info = Samples(config), config.dataset_info
    counts = np.zeros(info.num_classes, np.int64)
    for place in places:
        label = samples.label(pairs[place])
        counts += np.bincount(label[label != IGNORE_INDEX], minlength=info.num_classes)
    return counts


def frequency_weights(config: Config) -> tuple[float, ...]:
    """Cross-entropy weights by inverse log frequency, see ``suggest_weights``."""
    return tuple(suggest_weights(count_classes(config)).tolist())


def rare_classes(config: Config) -> np.ndarray:
    """Train IDs of classes with less than a quarter of an equal share of all pixels, ``uint8[N]``."""
    counts = count_classes(config)
    return np.flatnonzero(counts < _RARE * counts.sum() / len(counts)).astype(np.uint8)
