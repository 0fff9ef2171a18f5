"""From images to labels and offsets: whole image or sliding window.

Semantics are the original's: logits are resized with aligned corners; windows overlap, the last one is flush with the
border, and what overlaps is averaged (mask probabilities and raw direction logits for SegFix).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.config import Experiment, Normalization, SingleScale
from openseg.data.transforms import normalize
from openseg.models import SegFixOutput, SegmentorOutput
from openseg.models.layers import resize_logits

__all__ = [
    "argmax_cubic",
    "argmax_labels",
    "predict_boundary",
    "predict_labels",
    "predict_logits",
    "window_starts",
]

_BAND_ROWS = 128
_CUBIC_CLASSES = 16


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


def argmax_cubic(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Class of each pixel, ``uint8[B, H, W]``, after a cubic resize (A = -0.75, half-pixel centres: OpenCV's rule).

    A few classes are resized at a time.
    """
    best = labels = None
    for first in range(0, logits.shape[1], _CUBIC_CLASSES):
        part = F.interpolate(logits[:, first : first + _CUBIC_CLASSES], size=size, mode="bicubic", align_corners=False)
        values, classes = part.max(dim=1)
        if best is None or labels is None:
            best, labels = values, classes.to(torch.uint8)
        else:
            labels = torch.where(values > best, (classes + first).to(torch.uint8), labels)
            best = torch.maximum(best, values)
    return labels


def predict_logits(
    model: Callable[..., SegmentorOutput], inputs: Tensor, mode: SingleScale, flipped_classes: Tensor | None = None
) -> Tensor:
    """Logits ``float[B, K, H, W]`` at the size of ``inputs``: the sum over the mode's scales, mirrored and not.

    Args:
        inputs: normalised images ``float[B, 3, H, W]``.
        flipped_classes: ``int64[K]``, the class that each one becomes in a mirrored image.
    """
    size = tuple(inputs.shape[-2:])
    total = None
    for scale in mode.scales:
        scaled = resize_logits(inputs, (max(int(size[0] * scale), 1), max(int(size[1] * scale), 1)))
        logits = model(scaled, aux=False).logits.float()
        if mode.flip:
            mirrored = model(scaled.flip(3), aux=False).logits.float().flip(3)
            logits = logits + (mirrored if flipped_classes is None else mirrored[:, flipped_classes])
        # In two steps as the original, whose networks resize to their input's size themselves.
        logits = resize_logits(resize_logits(logits, tuple(scaled.shape[-2:])), size)
        total = logits if total is None else total + logits
    return total


def predict_labels(
    model: Callable[..., SegmentorOutput],
    images: Tensor,
    experiment: Experiment,
    mode: Literal["ss", "ms"],
    size: tuple[int, int],
) -> Tensor:
    """Training ids ``uint8[B, *size]`` of ``images: uint8[B, 3, H, W]``, each predicted whole.

    Logits are made at the images' size, and brought to ``size`` by a cubic resize where it is another one.
    """
    how = experiment.test.ms if mode == "ms" else experiment.test.ss
    inputs = normalize(images, experiment.normalization)
    height, width = inputs.shape[-2:]
    if how == SingleScale() and size == (height, width):
        return argmax_labels(model(inputs, aux=False).logits.float(), size)
    padded = F.pad(inputs, (0, -width % how.pad_to, 0, -height % how.pad_to))
    flipped = None
    catalog = experiment.catalog
    if catalog.flip_pairs:
        flipped = torch.from_numpy(catalog.flipped_classes[: catalog.num_classes]).long().to(images.device)
    logits = predict_logits(model, padded, how, flipped)[..., :height, :width]
    if size == (height, width):
        return logits.argmax(dim=1).to(torch.uint8)
    return argmax_cubic(logits, size)


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
