"""Lazy logits, computed a few rows at a time.

Logits at full size are large: 19 classes at 1024x2048 are 160 MB, and a sum over scales holds several such maps. A lazy
map computes its rows on demand. Only the networks' outputs are in memory, which at stride 4 are a sixteenth of the full
size, times the sum of the squared scales.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.inference.fused import positions, resized_argmax
from openseg.models.layers import resize_logits

__all__ = ["LazyLogits", "Window", "argmax", "bands", "cropped", "cubic", "from_tensor", "mosaic", "resized", "summed"]

BAND_VALUES = 4_000_000
"""Logits that are made at a time, 16 MB."""
_CUBIC = -0.75  # OpenCV's parameter of cubic interpolation


class LazyLogits(NamedTuple):
    """Lazy map ``float[B, K, H, W]``; ``read(top, bottom)`` computes rows ``top`` to ``bottom - 1``.

    ``small`` is what it is resized from, if that is its last step.
    """

    classes: int
    size: tuple[int, int]
    read: Callable[[int, int], Tensor]
    small: LazyLogits | None = None


class Window(NamedTuple):
    """Logits ``float[B, K, h, w]`` of the window whose corner is at (top, left)."""

    top: int
    left: int
    logits: Tensor


def from_tensor(logits: Tensor) -> LazyLogits:
    """Wrap a tensor."""
    size = logits.shape[-2], logits.shape[-1]
    return LazyLogits(logits.shape[1], size, lambda top, bottom: logits[:, :, top:bottom])


def resized(source: LazyLogits, size: tuple[int, int]) -> LazyLogits:
    """``resize_logits``: bilinear, corners aligned."""
    if source.size == size:
        return source
    height, width = size

    def read(top: int, bottom: int) -> Tensor:
        low, high, weight = positions(top, bottom, source.size[0], height)
        first = int(low[0])
        part = source.read(first, int(high[-1]) + 1)
        low, high = (low - first).to(part.device), (high - first).to(part.device)
        rows = torch.lerp(part[:, :, low], part[:, :, high], weight.to(part)[:, None])
        return resize_logits(rows, (bottom - top, width))

    return LazyLogits(source.classes, size, read, source)


def cubic(source: LazyLogits, size: tuple[int, int]) -> LazyLogits:
    """A cubic resize by OpenCV's rule: A = -0.75, pixel centers at one half, no smoothing when it shrinks."""
    if source.size == size:
        return source
    (rows, _), (height, width) = source.size, size

    def read(top: int, bottom: int) -> Tensor:
        position = (torch.arange(top, bottom, dtype=torch.float32) + 0.5) * (rows / height) - 0.5
        low = position.floor()
        taps = (low.long()[:, None] + torch.arange(-1, 3)).clamp(0, rows - 1)
        first = int(taps.min())
        part = source.read(first, int(taps.max()) + 1)
        weights = _cubic_weights(position - low).to(part)
        taps = (taps - first).to(part.device)
        rows_of_taps = [part[:, :, taps[:, k]] * weights[:, k, None] for k in range(4)]
        stretched = functools.reduce(torch.add, rows_of_taps)
        return F.interpolate(stretched, size=(bottom - top, width), mode="bicubic", align_corners=False)

    return LazyLogits(source.classes, size, read)


def _cubic_weights(t: Tensor) -> Tensor:
    """Weights ``[N, 4]`` of the pixels before, at, after and two after a position ``t`` past a pixel."""
    far, near, next_near, next_far = 1 + t, t, 1 - t, 2 - t
    inner = [((_CUBIC + 2) * x - (_CUBIC + 3)) * x * x + 1 for x in (near, next_near)]
    outer = [((_CUBIC * x - 5 * _CUBIC) * x + 8 * _CUBIC) * x - 4 * _CUBIC for x in (far, next_far)]
    return torch.stack([outer[0], *inner, outer[1]], dim=1)


def cropped(source: LazyLogits, size: tuple[int, int]) -> LazyLogits:
    """Crop to the upper left part of a map."""
    if source.size == size:
        return source
    return LazyLogits(source.classes, size, lambda top, bottom: source.read(top, bottom)[..., : size[1]])


def mosaic(
    windows: Sequence[Window], window: tuple[int, int], size: tuple[int, int], device: torch.device
) -> LazyLogits:
    """Resize windows to ``window`` and average them where they overlap; rows are computed on ``device``."""
    tops, lefts = ({getattr(each, name) for each in windows} for name in ("top", "left"))
    row_counts, column_counts = _cover(tops, window[0], size[0]), _cover(lefts, window[1], size[1])
    maps = [(each.top, each.left, resized(from_tensor(each.logits), window)) for each in windows]
    like = windows[0].logits

    def read(top: int, bottom: int) -> Tensor:
        total = torch.zeros(like.shape[0], like.shape[1], bottom - top, size[1], dtype=like.dtype, device=device)
        for window_top, left, rows in maps:
            begin, end = max(top, window_top), min(bottom, window_top + window[0])
            if begin < end:
                part = rows.read(begin - window_top, end - window_top)
                total[:, :, begin - top : end - top, left : left + window[1]] += part.to(device)
        return total / (row_counts[top:bottom, None] * column_counts).to(total)

    return LazyLogits(like.shape[1], size, read)


def _cover(starts: set[int], window: int, length: int) -> Tensor:
    """Count the windows that cover each position along one side."""
    counts = torch.zeros(length)
    for start in starts:
        counts[start : start + window] += 1
    return counts


def summed(terms: Sequence[tuple[LazyLogits, float]], probabilities: bool = False) -> LazyLogits:
    """Weighted sum of maps of equal size, or of their softmax over classes."""
    if len(terms) == 1 and terms[0][1] == 1 and not probabilities:
        return terms[0][0]

    def read(top: int, bottom: int) -> Tensor:
        total: Tensor | None = None
        for rows, weight in terms:
            part = rows.read(top, bottom)
            part = part.softmax(dim=1) if probabilities else part
            part = part if weight == 1 else part * weight
            total = part if total is None else total + part
        assert total is not None
        return total

    return LazyLogits(terms[0][0].classes, terms[0][0].size, read)


def bands(source: LazyLogits, batch: int = 1, most_values: int = BAND_VALUES) -> Iterator[tuple[int, Tensor]]:
    """Yield all rows in bands (first row, ``float[B, K, rows, W]``) of at most ``most_values`` values."""
    height, width = source.size
    step = max(most_values // (batch * source.classes * width), 1)
    for top in range(0, height, step):
        yield top, source.read(top, min(top + step, height))


def argmax(source: LazyLogits, batch: int = 1, most_values: int = BAND_VALUES) -> Tensor:
    """Class of each pixel, ``uint8[B, H, W]``."""
    if source.small is not None and (fused := _fused_argmax(source, source.small, batch, most_values)) is not None:
        return fused
    return torch.cat([part.argmax(dim=1).to(torch.uint8) for _, part in bands(source, batch, most_values)], dim=1)


def _fused_argmax(source: LazyLogits, small: LazyLogits, batch: int, most_values: int) -> Tensor | None:
    """``argmax`` in one loop over pixels, for float32 on a CPU; None for others."""
    height, width = source.size
    step = max(most_values // (batch * source.classes * width), 1)
    parts = []
    for top in range(0, height, step):
        low, high, weight = positions(top, min(top + step, height), small.size[0], height)
        first = int(low[0])
        part = small.read(first, int(high[-1]) + 1)
        if part.device.type != "cpu" or part.dtype != torch.float32:
            return None
        parts.append(resized_argmax(part, (low - first, high - first, weight), width))
    return torch.cat(parts, dim=1)
