"""From images to labels and offsets: whole image or sliding window, in memory that does not grow with the classes.

Semantics are the original's: logits are resized with aligned corners; windows overlap, the last one is flush with the
border, and what overlaps is averaged (mask probabilities and raw direction logits for SegFix).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from openseg.config import Normalization
from openseg.data.transforms import normalize
from openseg.models import SegFixOutput
from openseg.models.layers import resize_logits

__all__ = ["argmax_labels", "predict_boundary", "predict_labels", "window_starts"]

_BAND_ROWS = 128


def argmax_labels(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of each pixel, ``uint8[B, H, W]``: the argmax of ``resize_logits(logits, size)``, band by band.

    Only ``_BAND_ROWS`` rows of full-size logits exist at a time.
    """
    height, width = size
    rows = logits.shape[-2]
    scale = (rows - 1) / (height - 1) if height > 1 else 0.0
    position = torch.arange(height, device=logits.device, dtype=torch.float32) * scale
    low = position.floor().clamp(max=rows - 1).long()
    high = (low + 1).clamp(max=rows - 1)
    weight = (position - low).to(logits.dtype)[:, None]
    bands = []
    for top in range(0, height, _BAND_ROWS):
        band = slice(top, min(top + _BAND_ROWS, height))
        stretched = torch.lerp(logits[:, :, low[band]], logits[:, :, high[band]], weight[band])
        full = resize_logits(stretched, (stretched.shape[-2], width))
        bands.append(full.argmax(dim=1).to(torch.uint8))
    return torch.cat(bands, dim=1)


def predict_labels(model: nn.Module, images: Tensor, normalization: Normalization) -> Tensor:
    """Training ids ``uint8[B, H, W]`` of ``images: uint8[B, 3, H, W]`` in one pass at full size."""
    output = model(normalize(images, normalization))
    return argmax_labels(output.logits.float(), tuple(images.shape[-2:]))


def window_starts(length: int, window: int, stride: int) -> list[int]:
    """Where windows begin along one side: every ``stride`` pixels, the last one flush with the end."""
    if length <= window:
        return [0]
    last = length - window
    return [*range(0, last, stride), last]


def predict_boundary(
    model: Callable[[Tensor], SegFixOutput],
    images: Tensor,
    normalization: Normalization,
    window: tuple[int, int] | None,
    stride: tuple[int, int] | None = None,
) -> tuple[Tensor, Tensor]:
    """SegFix outputs at full size: boundary probability ``[B, H, W]`` and direction logits ``[B, 8, H, W]``.

    Args:
        images: ``uint8[B, 3, H, W]``, RGB.
        window: (height, width) of sliding windows, or None for the whole image at once.
        stride: (vertical, horizontal); None is a third of the window, as the original.
    """
    size = tuple(images.shape[-2:])
    window = size if window is None else (min(window[0], size[0]), min(window[1], size[1]))
    stride = stride or (max(window[0] // 3, 1), max(window[1] // 3, 1))
    normalized = normalize(images, normalization)
    total = torch.zeros(images.shape[0], 9, *size, device=images.device)
    counts = torch.zeros(size, device=images.device)
    for top in window_starts(size[0], window[0], stride[0]):
        for left in window_starts(size[1], window[1], stride[1]):
            area = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            output = model(normalized[area])
            mask = resize_logits(output.mask_logits.float().softmax(dim=1)[:, 1:], window)
            total[area] += torch.cat([mask, resize_logits(output.direction_logits.float(), window)], dim=1)
            counts[area] += 1
    total /= counts
    return total[:, 0], total[:, 1:]
