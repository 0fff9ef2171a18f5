"""Random changes of a training sample: resize, crop (with padding), flip, brightness; in the original's order.

Everything stays ``uint8`` on the CPU; ``normalize`` runs on the training device. What was padded is exactly zero after
normalisation, which no grey value could express, so each sample carries the window that its image fills.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from openseg.catalog import IGNORE
from openseg.config import AugmentConfig, Normalization
from openseg.segfix.directions import flip_codes
from openseg.segfix.targets import NO_ANGLE

__all__ = ["FILL", "Sample", "augment", "normalize"]

FILL = {"label": IGNORE, "depth": 255, "angle_code": NO_ANGLE}
"""Padding of each kind of map."""


@dataclass
class Sample:
    """``image: uint8[H, W, 3]`` and maps ``uint8[H, W]`` by kind (``label``, ``depth``, ``angle_code``).

    ``window`` is (top, left, height, width) of the part that is not padding.
    """

    image: np.ndarray
    maps: dict[str, np.ndarray]
    window: tuple[int, int, int, int]


def augment(image: np.ndarray, maps: dict[str, np.ndarray], config: AugmentConfig, rng: np.random.Generator) -> Sample:
    """One random variant of a sample, of size ``config.crop_size``; a pure function of its inputs and ``rng``."""
    if config.scale_range is not None:
        image, maps = _resize(image, maps, rng.uniform(*config.scale_range), rng.uniform(*config.aspect_range))
    sample = _crop(image, maps, config.crop_size, rng)
    if rng.random() < config.flip:
        top, left, height, width = sample.window
        sample.window = (top, config.crop_size[1] - left - width, height, width)
        sample.image = sample.image[:, ::-1]
        sample.maps = {kind: values[:, ::-1] for kind, values in sample.maps.items()}
        if "angle_code" in sample.maps:
            sample.maps["angle_code"] = flip_codes(sample.maps["angle_code"])
    shift = int(rng.integers(-config.brightness, config.brightness + 1))
    if shift:
        levels = np.clip(np.arange(256) + shift, 0, 255).astype(np.uint8)
        sample.image = levels[sample.image]
    return sample


def _resize(
    image: np.ndarray, maps: dict[str, np.ndarray], scale: float, aspect: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    height, width = image.shape[:2]
    size = (max(int(width * scale * aspect**0.5), 1), max(int(height * scale / aspect**0.5), 1))
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    return image, {kind: cv2.resize(x, size, interpolation=cv2.INTER_NEAREST) for kind, x in maps.items()}


def _crop(image: np.ndarray, maps: dict[str, np.ndarray], size: tuple[int, int], rng: np.random.Generator) -> Sample:
    """A random crop; where the image is smaller it goes to a random place and the rest is padding."""
    source, target, window = [], [], []
    for length, wanted in zip(image.shape[:2], size, strict=True):
        kept = min(length, wanted)
        start = int(rng.integers(0, length - kept + 1))
        place = int(rng.integers(0, wanted - kept + 1))
        source.append(slice(start, start + kept))
        target.append(slice(place, place + kept))
        window.append((place, kept))
    padded = np.zeros((*size, 3), np.uint8)
    padded[tuple(target)] = image[tuple(source)]
    cropped = {}
    for kind, values in maps.items():
        cropped[kind] = np.full(size, FILL[kind], np.uint8)
        cropped[kind][tuple(target)] = values[tuple(source)]
    (top, height), (left, width) = window
    return Sample(padded, cropped, (top, left, height, width))


def normalize(images: Tensor, config: Normalization, windows: Tensor | None = None) -> Tensor:
    """RGB ``uint8[B, 3, H, W]`` -> ``float32`` network input, on the same device; zero outside ``windows[B, 4]``."""
    mean = torch.tensor(config.mean, device=images.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=images.device).view(3, 1, 1)
    if config.order == "bgr":
        images = images.flip(1)
    normalized = (images.float() / config.scale - mean) / std
    if windows is not None:
        size = normalized.shape[-2:]
        for image, (top, left, height, width) in zip(normalized, windows.tolist(), strict=True):
            if (height, width) != tuple(size):
                filled = image[:, top : top + height, left : left + width].clone()
                image.zero_()
                image[:, top : top + height, left : left + width] = filled
    return normalized
