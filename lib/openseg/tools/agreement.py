"""Two ways to predict the same images: what each scores, and how far they agree."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from openseg.errors import DataError
from openseg.metrics import ConfusionMatrix

__all__ = ["Agreement", "agreement"]


class Agreement(NamedTuple):
    """mIoU (percent) of two ways, and the share of pixels to which they give the same class."""

    first: float
    second: float
    same: float


def agreement(maps: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]], num_classes: int, truths: Path) -> Agreement:
    """Compare ``maps``, each (truth, first, second) of train IDs ``uint8[H, W]``.

    Raises:
        DataError: no pixel of ``truths``, the folder of the label maps, is of a class.
    """
    scores = [ConfusionMatrix(num_classes) for _ in range(2)]
    same = total = 0
    for truth, *both in maps:
        for confusion, labels in zip(scores, both, strict=True):
            confusion.update(labels, truth)
        same, total = same + int((both[0] == both[1]).sum()), total + truth.size
    if not scores[0].counts.any():
        raise DataError(f"{truths}: no pixel of a class in these label maps, so nothing can be verified")
    first, second = (100 * confusion.mean_iou for confusion in scores)
    return Agreement(first, second, same / total)
