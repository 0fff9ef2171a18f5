"""Inference of logits and labels.

As in the original, logits are resized with aligned corners; logits of scales and flipped images are summed; the last
window is flush with the border, and overlaps are averaged; logits are resized to the image's original size by OpenCV's
cubic resize.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.config import Config, SingleScale, TestConfig
from openseg.datasets.transforms import normalize
from openseg.inference.lazy import LazyLogits, argmax, cropped, cubic, from_tensor, resized, summed
from openseg.inference.tiling import Size, predict_windows
from openseg.models.layers import resize_logits
from openseg.models.segmentor import SegmentorOutput

__all__ = ["predict_labels", "predict_logits", "predict_scores"]

Network = Callable[..., SegmentorOutput]


def predict_logits(
    model: Network,
    inputs: Tensor,
    how: SingleScale,
    test: TestConfig | None = None,
    flipped_classes: Tensor | None = None,
    limit: tuple[int, int] | None = None,
) -> LazyLogits:
    """Return logits ``float[B, K, H, W]`` at the size of ``inputs``, summed over scales and flips.

    With ``test.average: probabilities``, the mean of their softmax instead.

    Args:
        inputs: normalized images ``float[B, 3, H, W]``.
        how: scales, flip and weights.
        test: windows and the kind of average; the default is none and logits.
        flipped_classes: ``int64[K]``, the class that each one becomes in a mirrored image.
        limit: (height, width) of the largest part that memory has room for, if that is less than the windows of
            ``test``; what is larger is cut into windows that overlap by a quarter, whose logits wait in main memory.
    """
    test = test or TestConfig()
    size = inputs.shape[-2], inputs.shape[-1]
    probabilities = test.average == "probabilities"
    terms: list[list[tuple[LazyLogits, float]]] = [[] for _ in how.scales]
    # The largest first: what it needed is free for the others, while small pieces left behind would be in its way.
    for number in sorted(range(len(how.scales)), key=lambda each: -how.scales[each]):
        scale, weight = how.scales[number], how.weights[number] if how.weights else 1.0
        scaled_size = max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)
        scaled, grid = resize_logits(inputs, scaled_size), _grid(test, scale, limit)
        views = _views(model, scaled, grid, how.flip, flipped_classes, wait="cpu" if limit else inputs.device)
        if not probabilities and all(isinstance(view, Tensor) for view in views):
            # Small maps, so that less is held and resized.
            views = [functools.reduce(torch.add, [view for view in views if isinstance(view, Tensor)])]
        for view in views:
            rows = from_tensor(view) if isinstance(view, Tensor) else view
            # In two steps as the original, whose networks resize to their input's size themselves.
            terms[number].append((resized(resized(rows, scaled_size), size), weight))
    flat = [term for group in terms for term in group]
    if not probabilities:
        return summed(flat)
    total = sum(weight for _, weight in flat)
    return summed([(rows, weight / total) for rows, weight in flat], probabilities=True)


def _views(
    model: Network,
    images: Tensor,
    grid: tuple[Size, Size] | None,
    flip: bool,
    flipped_classes: Tensor | None,
    wait: str | torch.device,
) -> list[Tensor | LazyLogits]:
    """Return logits of images and, with ``flip``, of flipped images (flipped back), whole or in windows.

    ``wait`` is the device that stores logits of windows.
    """
    views: list[Tensor | LazyLogits] = []
    for mirrored in (False, True) if flip else (False,):
        forward = _forward(model, mirrored, flipped_classes)
        views.append(predict_windows(forward, images, *grid, mirrored, wait) if grid else forward(images))
    return views


def _forward(model: Network, mirrored: bool, flipped_classes: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Return logits of images, or of flipped images (flipped back)."""

    def forward(images: Tensor) -> Tensor:
        if not mirrored:
            return model(images, aux=False).logits.float()
        logits = model(images.flip(3), aux=False).logits.float().flip(3)
        return logits if flipped_classes is None else logits[:, flipped_classes]

    return forward


def _grid(test: TestConfig, scale: float, limit: tuple[int, int] | None) -> tuple[Size, Size] | None:
    """Window and stride at one scale, or None for whole images."""
    if limit is not None:
        window = limit if test.window is None else (min(limit[0], test.window[0]), min(limit[1], test.window[1]))
        return window, (max(window[0] * 3 // 4, 1), max(window[1] * 3 // 4, 1))
    if test.window is None or scale < 1:  # the original takes images that it shrinks whole
        return None
    return test.window, test.window_stride or test.window


def predict_scores(
    model: Network,
    images: Tensor,
    config: Config,
    mode: Literal["ss", "ms"],
    size: tuple[int, int],
    limit: tuple[int, int] | None = None,
) -> LazyLogits:
    """Return logits of ``images: uint8[B, 3, H, W]`` at ``size``; probabilities with ``test.average: probabilities``.

    They are computed at the images' size, then resized to ``size`` (cubic) if different. ``limit`` as in
    ``predict_logits``.
    """
    how = config.test.ms if mode == "ms" else config.test.ss
    inputs = normalize(images, config.normalization)
    height, width = inputs.shape[-2:]
    padded = F.pad(inputs, (0, -width % how.pad_to, 0, -height % how.pad_to))
    info, flipped = config.dataset_info, None
    if info.flip_pairs:
        flipped = torch.from_numpy(info.flipped_classes[: info.num_classes]).long().to(images.device)
    logits = predict_logits(model, padded, how, config.test, flipped, limit)
    return cubic(cropped(logits, (height, width)), size)


def predict_labels(
    model: Network, images: Tensor, config: Config, mode: Literal["ss", "ms"], size: tuple[int, int]
) -> Tensor:
    """Return train IDs ``uint8[B, *size]`` of ``images: uint8[B, 3, H, W]``, see ``predict_scores``."""
    return argmax(predict_scores(model, images, config, mode, size), len(images))
