"""The last step of prediction on a CPU in one loop: logits are resized and compared, never stored at full size."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openseg.compiled import compiled

__all__ = ["positions", "resized_argmax"]


def positions(first: int, last: int, length: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where the pixels ``first`` to ``last - 1`` of ``size`` lie among ``length``, corners aligned.

    Returns:
        The pixel before and the one after, ``int64[N]``, and the weight of the latter, ``float32[N]``.
    """
    place = torch.arange(first, last, dtype=torch.float32) * ((length - 1) / (size - 1) if size > 1 else 0.0)
    low = place.floor().clamp(max=length - 1).long()
    return low, (low + 1).clamp(max=length - 1), place - low


def resized_argmax(logits: Tensor, rows: tuple[Tensor, Tensor, Tensor], width: int) -> Tensor:
    """Class of each pixel, ``uint8[B, N, width]``, of ``logits: float32[B, K, h, w]`` resized bilinearly.

    Args:
        rows: of N rows, where they lie in ``logits``, see ``positions``.

    Of equal logits the first class is taken, as by ``argmax``. One thread does it: more
    would wait for those of PyTorch.
    """
    columns = [each.numpy() for each in positions(0, width, logits.shape[3], width)]
    low, high, weight = (each.numpy() for each in rows)
    values = logits.contiguous().numpy()
    labels = np.empty((len(values), len(low), width), np.uint8)
    for image, found in zip(values, labels, strict=True):
        _classes_of_rows(image, low, high, weight, *columns, found)
    return torch.from_numpy(labels)


@compiled
def _classes_of_rows(
    values: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    weight: np.ndarray,
    left: np.ndarray,
    right: np.ndarray,
    share: np.ndarray,
    labels: np.ndarray,
) -> None:
    classes, _, columns = values.shape
    one = np.float32(1)
    row = np.empty((classes, columns), np.float32)
    best = np.empty(columns, np.float32)
    at = np.empty(columns, np.int32)
    for y in range(low.size):
        w = weight[y]
        for k in range(classes):
            above, below = values[k, low[y]], values[k, high[y]]
            if w < 0.5:  # as torch.lerp
                for x in range(columns):
                    row[k, x] = above[x] + w * (below[x] - above[x])
            else:
                for x in range(columns):
                    row[k, x] = below[x] - (below[x] - above[x]) * (one - w)
            if k == 0:
                for x in range(columns):
                    best[x] = row[0, x]
                    at[x] = 0
            else:
                for x in range(columns):
                    larger = row[k, x] > best[x]
                    best[x] = row[k, x] if larger else best[x]
                    at[x] = k if larger else at[x]
        for x in range(left.size):
            a, b = left[x], right[x]
            # A class that is the largest at both ends is so everywhere between them.
            labels[y, x] = at[a]
            if at[a] == at[b]:
                continue
            largest = np.float32(-np.inf)
            for k in range(classes):
                value = row[k, a] * (one - share[x]) + row[k, b] * share[x]
                if value > largest:
                    largest = value
                    labels[y, x] = k
