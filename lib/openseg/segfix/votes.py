"""The refiner's decision: the label with the most probability among a pixel's candidates."""

from __future__ import annotations

import cv2
import numpy as np

from openseg.compiled import compiled

__all__ = ["undecided", "vote"]


def undecided(labels: np.ndarray, reach: int) -> np.ndarray:
    """``bool[H, W]``: pixels with another label within ``reach`` pixels; all others have nothing to choose from.

    Args:
        labels: ``uint8``, ``uint16`` or ``float32[H, W]``.
    """
    block = np.ones((2 * reach + 1, 2 * reach + 1), np.uint8)
    return cv2.dilate(labels, block) != cv2.erode(labels, block)


@compiled
def vote(
    labels: np.ndarray,
    pixels: np.ndarray,
    probabilities: np.ndarray,
    steps: np.ndarray,
    factor: int,
    margin: float,
    refined: np.ndarray,
) -> None:
    """Give each of ``pixels`` the label with the largest sum of probabilities; writes into ``refined``.

    Args:
        labels: ``[H, W]`` of any integers.
        pixels: (row, column) of N pixels, ``int64[N, 2]``.
        probabilities: of their candidates, ``float32[N, factor * factor, K]``: for each of the pixels that a pixel
            becomes when the map is enlarged by ``factor``, in rows.
        steps: (dh, dw) of the candidates in the enlarged map, ``int64[K, 2]``.
        margin: by how much (0 to 1) another label must be more probable than the pixel's own.
        refined: ``[H, W]``, contiguous, of the type of ``labels``.
    """
    height, width = labels.shape
    seen = np.empty(probabilities.shape[1] * probabilities.shape[2], labels.dtype)
    sums = np.empty(len(seen), np.float64)
    for number in range(len(pixels)):
        y, x = pixels[number, 0], pixels[number, 1]
        seen[0], sums[0], known = labels[y, x], 0.0, 1
        for part in range(factor * factor):
            for k in range(len(steps)):
                down = y * factor + part // factor + steps[k, 0]
                right = x * factor + part % factor + steps[k, 1]
                down = min(max(down, 0), height * factor - 1) // factor
                right = min(max(right, 0), width * factor - 1) // factor
                label, place = labels[down, right], 0
                while place < known and seen[place] != label:
                    place += 1
                if place == known:
                    seen[place], sums[place] = label, 0.0
                    known += 1
                sums[place] += probabilities[number, part, k]
        best = 0
        for place in range(1, known):
            if sums[place] > sums[best]:
                best = place
        if best != 0 and sums[best] > sums[0] + margin * factor**2:
            refined[y, x] = seen[best]
