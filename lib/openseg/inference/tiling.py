"""Sliding windows: positions, and outputs combined into one map."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from openseg.inference.lazy import LazyLogits, Window, mosaic

__all__ = ["Size", "predict_windows", "window_starts"]

Size = tuple[int, int]


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Return window positions along one side: every ``stride`` pixels, the last one flush with the end."""
    if length <= window:
        return [0]
    last = length - window
    return [*range(0, last, stride), last]


def predict_windows(
    forward: Callable[[Tensor], Tensor],
    images: Tensor,
    window: Size,
    stride: Size | None = None,
    mirrored: bool = False,
    wait: str | torch.device | None = None,
) -> LazyLogits:
    """Average the outputs of ``forward`` over windows, resized to the window's size with aligned corners.

    Args:
        forward: ``float[B, 3, h, w] -> float[B, K, h', w']``.
        images: ``float[B, 3, H, W]``; what is smaller than the window is one window.
        stride: None is a third of the window, as it is cut to the image.
        mirrored: mirror the window positions, as for a flipped image.
        wait: device that stores the outputs; None is that of the images.
    """
    size = images.shape[-2], images.shape[-1]
    window = min(window[0], size[0]), min(window[1], size[1])
    stride = stride or (max(window[0] // 3, 1), max(window[1] // 3, 1))
    windows = []
    for top in window_starts(size[0], window[0], stride[0]):
        for start in window_starts(size[1], window[1], stride[1]):
            left = size[1] - window[1] - start if mirrored else start
            part = images[..., top : top + window[0], left : left + window[1]]
            windows.append(Window(top, left, forward(part).to(wait or images.device)))
    return mosaic(windows, window, size, images.device)
