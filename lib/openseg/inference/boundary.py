"""SegFix prediction: boundary and directions of an image, whole or in windows, multi-scale and flipped."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.config import Config, TestConfig
from openseg.datasets.transforms import normalize
from openseg.inference.tiling import predict_windows
from openseg.models.layers import resize_logits
from openseg.models.segfix import SegFixOutput
from openseg.segfix import DIRECTION_VECTORS, NUM_DIRECTIONS, OffsetMap
from openseg.segfix.offsets import LEVELS

__all__ = ["Boundary", "offset_codes", "predict_boundary"]

_MIRRORED = [
    next(other for other in range(NUM_DIRECTIONS) if tuple(DIRECTION_VECTORS[other]) == (down, -right))
    for down, right in DIRECTION_VECTORS
]
"""Direction that each one becomes in a mirrored image."""
_VECTORS = DIRECTION_VECTORS.tolist()  # torch.export of PyTorch 2.6 and 2.7 takes no array


class Boundary(NamedTuple):
    """Boundary probability ``float[B, H, W]`` and direction logits ``float[B, 8, H, W]``."""

    probability: Tensor
    logits: Tensor

    def offset_map(self, config: Config) -> OffsetMap:
        """Return the offsets of the first image, see ``offset_codes``."""
        return OffsetMap(offset_codes(self.probability[:1], self.logits[:1], config)[0].cpu().numpy())


def offset_codes(probability: Tensor, logits: Tensor, config: Config) -> Tensor:
    """Return the codes of an ``OffsetMap``, ``uint8[B, H, W]``.

    Pixels with boundary probability up to ``segfix.mask_threshold`` get no offset. The confidence is the length of the
    probability-weighted mean of the 8 direction vectors: 1 where all agree, 0 where they cancel, as in the middle of
    thin objects. ``segfix.direction`` selects the most probable direction or that of the mean.
    """
    threshold = config.segfix.mask_threshold
    probabilities = logits.softmax(dim=1)
    vectors = torch.tensor(_VECTORS, dtype=probabilities.dtype, device=probabilities.device)
    down, right = torch.tensordot((vectors / vectors.norm(dim=1, keepdim=True)).T, probabilities, dims=([1], [1]))
    if config.segfix.direction == "mean":
        direction = ((torch.atan2(down, right) + math.pi) / (math.pi / 4)).round().long() % NUM_DIRECTIONS
    else:
        direction = probabilities.argmax(dim=1)
    confidence = (down * down + right * right).sqrt().clamp(max=1)  # ONNX has no hypot
    codes = 1 + LEVELS * direction + (confidence * (LEVELS - 1)).round().long()
    return (codes * (probability > threshold)).to(torch.uint8)


def predict_boundary(model: Callable[[Tensor], SegFixOutput], images: Tensor, config: Config) -> Boundary:
    """Return SegFix outputs of ``images: uint8[B, 3, H, W]`` at their size.

    As in the original, mask probabilities and direction logits are averaged where windows overlap; additionally, over
    the scales of ``test.ss`` and flipped images. The default window stride is a third of the window.
    """
    test = config.test
    how, size = test.ss, (images.shape[-2], images.shape[-1])
    weights = how.weights or (1.0,) * len(how.scales)
    total: Tensor | None = None
    for scale, weight in zip(how.scales, weights, strict=True):
        inputs = normalize(_scaled(images, scale), config.normalization)
        for mirrored in (False, True) if how.flip else (False,):
            view = _windows(model, inputs.flip(3) if mirrored else inputs, test)
            if mirrored:
                view = view.flip(3)[:, [0, *(1 + direction for direction in _MIRRORED)]]
            view = _resized(view, size) * (weight / sum(weights) / (2 if how.flip else 1))
            total = view if total is None else total.add_(view)
    assert total is not None
    return Boundary(total[:, 0], total[:, 1:])


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Resize ``uint8`` images like OpenCV's cubic resize of training samples."""
    if scale == 1:
        return images
    size = [max(int(length * scale), 1) for length in images.shape[-2:]]
    scaled = F.interpolate(images.float(), size=size, mode="bicubic", align_corners=False)
    return scaled.round().clamp(0, 255).to(torch.uint8)


def _resized(view: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize to the images' size, without aligned corners, unlike logits of a network."""
    if tuple(view.shape[-2:]) == size:
        return view
    return F.interpolate(view, size=size, mode="bilinear", align_corners=False)


def _windows(model: Callable[[Tensor], SegFixOutput], inputs: Tensor, test: TestConfig) -> Tensor:
    """Return boundary probability and direction logits ``[B, 9, H, W]`` of normalized inputs, whole or in windows."""

    def forward(images: Tensor) -> Tensor:
        output = model(images)
        return torch.cat([output.mask_logits.float().softmax(dim=1)[:, 1:], output.direction_logits.float()], dim=1)

    size = (inputs.shape[-2], inputs.shape[-1])
    if test.window is None:
        return resize_logits(forward(inputs), size)
    return predict_windows(forward, inputs, test.window, test.window_stride).read(0, size[0])
