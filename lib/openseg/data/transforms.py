"""Random changes of a training sample: resize, crop (with padding), flip, brightness, as the original made them.

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
from openseg.config import AugmentConfig, DataConfig, Normalization
from openseg.segfix.directions import flip_codes
from openseg.segfix.targets import NO_ANGLE

__all__ = ["FILL", "Sample", "augment", "fit_image", "fit_size", "normalize"]

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


def fit_size(size: tuple[int, int], config: DataConfig) -> tuple[int, int]:
    """(height, width) that the experiment brings images of ``size`` to before anything else."""
    if config.size is not None:
        return config.size
    if config.short_side is None:
        return size
    factor = config.short_side / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def fit_image(image: np.ndarray, config: DataConfig) -> np.ndarray:
    """``image: uint8[H, W, 3]`` at ``fit_size``; cubic."""
    return _resize(image, {}, fit_size(image.shape[:2], config))[0]


def augment(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    config: AugmentConfig,
    rng: np.random.Generator,
    fit: DataConfig | None = None,
    flipped_classes: np.ndarray | None = None,
) -> Sample:
    """One random variant of a sample, of size ``config.crop_size``; a pure function of its inputs and ``rng``.

    Args:
        fit: what every image is resized to before the random changes.
        flipped_classes: ``uint8[256]``, the class that each one becomes in a mirrored image.
    """
    if config.flip_first and rng.random() < config.flip:
        image, maps = _flip(image, maps, flipped_classes)
    size = image.shape[:2]
    if fit is not None:
        size = fit_size(size, fit)
        image, maps = _resize(image, maps, size)
    if config.scale_range is not None:
        scale, aspect = rng.uniform(*config.scale_range), rng.uniform(*config.aspect_range) ** 0.5
        size = max(int(size[0] * scale / aspect), 1), max(int(size[1] * scale * aspect), 1)
        image, maps = _resize(image, maps, size)
    sample = _crop(image, maps, config.crop_size, rng)
    if not config.flip_first and rng.random() < config.flip:
        sample.image, sample.maps = _flip(sample.image, sample.maps, flipped_classes)
        top, left, height, width = sample.window
        sample.window = (top, config.crop_size[1] - left - width, height, width)
    shift = int(rng.integers(-config.brightness, config.brightness + 1))
    if shift:
        levels = np.clip(np.arange(256) + shift, 0, 255).astype(np.uint8)
        sample.image = levels[sample.image]
    return sample


def _flip(
    image: np.ndarray, maps: dict[str, np.ndarray], flipped_classes: np.ndarray | None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    maps = {kind: values[:, ::-1] for kind, values in maps.items()}
    if "angle_code" in maps:
        maps["angle_code"] = flip_codes(maps["angle_code"])
    if flipped_classes is not None and "label" in maps:
        maps["label"] = flipped_classes[maps["label"]]
    return image[:, ::-1], maps


def _resize(
    image: np.ndarray, maps: dict[str, np.ndarray], size: tuple[int, int]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Image (cubic) and maps (nearest) at (height, width)."""
    if image.shape[:2] == tuple(size):
        return image, maps
    width_height = size[::-1]
    image = cv2.resize(np.ascontiguousarray(image), width_height, interpolation=cv2.INTER_CUBIC)
    return image, {
        kind: cv2.resize(np.ascontiguousarray(x), width_height, interpolation=cv2.INTER_NEAREST)
        for kind, x in maps.items()
    }


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
