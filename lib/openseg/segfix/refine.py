"""Refinement: every boundary pixel takes the label that lies inside its object. One integer gather.

The original sampled one-hot masks with ``grid_sample``; with the corners aligned that equals the gather below, with
today's default it shifts labels by a fraction of a pixel.
"""

from __future__ import annotations

import numpy as np

from openseg.errors import DataError

__all__ = ["refine"]


def refine(labels: np.ndarray, offsets: np.ndarray, scale: int = 1) -> np.ndarray:
    """Replace each label by the one at ``(h + scale * dh, w + scale * dw)``, clamped to the image.

    Args:
        labels: ``[H, W]`` of any dtype and any id space.
        offsets: integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1}; zero leaves the pixel as it is.
        scale: pixels a step; 2 suits 1024x2048, 1 suits images of a quarter of that.

    Returns:
        A new array like ``labels``.

    Raises:
        DataError: the sizes of labels and offsets differ, or ``scale`` is negative.
    """
    if offsets.shape != (*labels.shape, 2):
        raise DataError(f"offsets {offsets.shape[:2]} and labels {labels.shape} differ in size; they are of two images")
    if scale < 0:
        raise DataError(f"scale {scale}: use 0 or more pixels")
    refined = labels.copy()
    rows, columns = np.nonzero(offsets.any(axis=2))
    step = offsets[rows, columns].astype(np.int64) * scale
    height, width = labels.shape
    refined[rows, columns] = labels[
        np.clip(rows + step[:, 0], 0, height - 1),
        np.clip(columns + step[:, 1], 0, width - 1),
    ]
    return refined
