"""Built-in augmentation of training samples: resize, crop (with padding), flip, brightness, as in the original.

Samples stay ``uint8`` on the CPU; ``normalize`` runs on the training device. Padding is exactly zero after
normalization, which no gray value could express, so each sample carries the window of its image.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from torch import Tensor

from openseg.config import AugmentConfig, DataConfig, Normalization
from openseg.datasets.augmentations import FILL, TRANSFORMS, Sample
from openseg.segfix.directions import flip_codes

__all__ = ["at_progress", "augment", "fit_image", "fit_size", "mirror", "normalize"]


def fit_size(size: tuple[int, int], config: DataConfig) -> tuple[int, int]:
    """(height, width) that the config brings images of ``size`` to before anything else."""
    if config.size is not None:
        return config.size
    if config.short_side is None:
        return size
    factor = config.short_side / min(size)
    return round(size[0] * factor), round(size[1] * factor)


def fit_image(image: np.ndarray, config: DataConfig) -> np.ndarray:
    """``image: [H, W, C]`` at ``fit_size``; cubic."""
    size = fit_size(image.shape[:2], config)
    return _resize_part(image, image.shape[:2], size, size, cv2.INTER_CUBIC)


@dataclass(frozen=True)
class _Draw:
    """Random choices of one sample, all drawn before pixels are processed."""

    mirror_first: bool
    sizes: list[tuple[int, int]]
    """(height, width) of the image as it is, and after each resize."""
    source: tuple[slice, slice]
    """What the crop keeps of the last size."""
    target: tuple[slice, slice]
    """Where that goes in the sample; the rest is padding."""
    mirror_last: bool
    shift: int


def _draw(size: tuple[int, int], config: AugmentConfig, rng: np.random.Generator, fit: DataConfig | None) -> _Draw:
    mirror_first = config.flip_first and rng.random() < config.flip
    sizes = [size]
    if fit is not None:
        sizes.append(fit_size(size, fit))
    if config.scale_range is not None:
        scale, aspect = rng.uniform(*config.scale_range), rng.uniform(*config.aspect_range) ** 0.5
        height, width = sizes[-1]
        sizes.append((max(int(height * scale / aspect), 1), max(int(width * scale * aspect), 1)))
    source, target = [], []
    for length, wanted in zip(sizes[-1], config.crop_size, strict=True):
        kept = min(length, wanted)
        start = int(rng.integers(0, length - kept + 1))
        place = int(rng.integers(0, wanted - kept + 1))
        source.append(slice(start, start + kept))
        target.append(slice(place, place + kept))
    mirror_last = not config.flip_first and rng.random() < config.flip
    shift = int(rng.integers(-config.brightness, config.brightness + 1))
    return _Draw(mirror_first, sizes, (source[0], source[1]), (target[0], target[1]), mirror_last, shift)


def at_progress(config: AugmentConfig, done: float) -> AugmentConfig:
    """The augmentation when a share ``done`` of the training is over: crops grow in four steps of equal length.

    Their sides are multiples of 32 until the last step, whose crops have the size ``crop_size``.
    """
    step = min(int(4 * done), 3)
    if config.progressive_crop == 1 or step == 3:
        return config
    factor = config.progressive_crop + (1 - config.progressive_crop) * step / 3
    height, width = (min(max(round(side * factor / 32) * 32, 32), side) for side in config.crop_size)
    return config.model_copy(update={"crop_size": (height, width)})


def augment(
    image: np.ndarray,
    maps: dict[str, np.ndarray],
    config: AugmentConfig,
    seeds: Sequence[int],
    fit: DataConfig | None = None,
    flipped_classes: np.ndarray | None = None,
) -> Sample:
    """Return an augmented sample of size ``config.crop_size``; a pure function of its inputs and ``seeds``.

    The crop is chosen first, so that nothing below or to the right of it is resized, or read of a memory-mapped array.

    Resize, crop, flip and brightness draw from one stream of random numbers; each of ``config.transforms``, which
    follow them, has a stream of its own (see ``augmentations``).

    Args:
        fit: fixed resize before augmentation.
        flipped_classes: ``uint8[256]``, class of each class in a mirrored image.
    """
    draw = _draw(image.shape[:2], config, np.random.default_rng(list(seeds)), fit)
    kept = _cropped(image, draw, cv2.INTER_CUBIC)
    if draw.shift and kept.dtype == np.uint8:
        kept = cv2.LUT(kept, np.clip(np.arange(256) + draw.shift, 0, 255).astype(np.uint8))
    elif draw.shift:
        kept = kept + np.float32(draw.shift / _GRAYS)
    padded = np.zeros((*config.crop_size, kept.shape[2]), kept.dtype)
    padded[draw.target] = kept
    padded_maps = {}
    for kind, values in maps.items():
        kept = _cropped(values, draw, cv2.INTER_NEAREST)
        padded_maps[kind] = np.full(config.crop_size, FILL[kind], np.uint8)
        padded_maps[kind][draw.target] = recode_mirrored(kind, kept, flipped_classes) if draw.mirror_first else kept
    rows, columns = draw.target
    left = columns.start
    if draw.mirror_last:
        padded, padded_maps = mirror(padded, padded_maps, flipped_classes)
        left = config.crop_size[1] - columns.stop
    window = rows.start, left, rows.stop - rows.start, columns.stop - columns.start
    sample = Sample(padded, padded_maps, window, draw.mirror_first != draw.mirror_last)
    return _transformed(sample, config, seeds) if config.transforms else sample


def _transformed(sample: Sample, config: AugmentConfig, seeds: Sequence[int]) -> Sample:
    sample.image = np.ascontiguousarray(sample.image)
    sample.maps = {kind: np.ascontiguousarray(values) for kind, values in sample.maps.items()}
    seen: dict[str, int] = {}
    for term in config.transforms:
        number = seen[term.type] = seen.get(term.type, -1) + 1
        rng = np.random.default_rng([*seeds, zlib.crc32(term.type.encode()), number])
        sample = TRANSFORMS.look_up(term.type, "augment.transforms")(sample, rng, **term.options)
    return sample


def mirror(
    image: np.ndarray, maps: dict[str, np.ndarray], flipped_classes: np.ndarray | None = None
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Image ``[H, W, 3]`` and maps ``[H, W]`` by kind, left and right exchanged, also in what the values mean.

    Kinds other than labels and ``angle_code`` (``depth``, ``instance``) keep their values.
    """
    return image[:, ::-1], {
        kind: recode_mirrored(kind, values[:, ::-1], flipped_classes) for kind, values in maps.items()
    }


def recode_mirrored(kind: str, values: np.ndarray, flipped_classes: np.ndarray | None) -> np.ndarray:
    """Recode the values of a map for a mirrored image; padding keeps its value."""
    if kind == "angle_code":
        return flip_codes(values)
    if kind in ("label", "coarse") and flipped_classes is not None:
        return flipped_classes[values]
    return values


def _cropped(values: np.ndarray, draw: _Draw, interpolation: int) -> np.ndarray:
    """What ``draw`` keeps of an image or a map, resized; where mirrored first, in the mirrored image."""
    ends = [(draw.source[0].stop, draw.source[1].stop)]
    for before, after in zip(draw.sizes[-2::-1], draw.sizes[:0:-1], strict=True):
        ends.append(_needed(before, after, ends[-1]))
    ends.reverse()
    bottom, right = ends[0]
    values = values[:bottom, ::-1][:, :right] if draw.mirror_first else values[:bottom, :right]
    for before, after, end in zip(draw.sizes, draw.sizes[1:], ends[1:], strict=False):
        values = _resize_part(values, before, after, end, interpolation)
    return np.ascontiguousarray(values[draw.source])


# Pixels beyond the last one that a cubic kernel reads for it, and one for rounding.
_REACH = 4

_GRAYS = 58.0
"""A standard deviation of bands in gray values, so that a brightness shift is as strong as in RGB (0.226 of 255)."""


def _needed(before: tuple[int, int], after: tuple[int, int], end: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns, from the top left, that ``end`` rows and columns of a resized image are made of."""
    if before == after:
        return end
    rows, columns = (
        min(-(-stop * source // target) + _REACH, source)
        for source, target, stop in zip(before, after, end, strict=True)
    )
    return rows, columns


def _resize_part(
    part: np.ndarray, before: tuple[int, int], after: tuple[int, int], end: tuple[int, int], interpolation: int
) -> np.ndarray:
    """The first ``end`` rows and columns of what an image of size ``before`` becomes at size ``after``.

    ``part`` is the top left of the image (see ``_needed``). The scale of the whole is given to OpenCV, so each pixel is
    computed from the same neighbors with the same weights.
    """
    if before == after:
        return part[: end[0], : end[1]]
    fy, fx = after[0] / before[0], after[1] / before[1]
    resized = cv2.resize(np.ascontiguousarray(part), None, fx=fx, fy=fy, interpolation=interpolation)
    resized = resized.reshape(*resized.shape[:2], *part.shape[2:])  # OpenCV drops an axis of one channel
    return resized[: end[0], : end[1]]


@functools.lru_cache(maxsize=8)
def _on_device(values: tuple[float, float, float], device: torch.device) -> Tensor:
    return torch.tensor(values, device=device).view(3, 1, 1)  # once: copying them waits for a GPU


def normalize(images: Tensor, config: Normalization, windows: Tensor | None = None) -> Tensor:
    """RGB ``uint8[B, 3, H, W]`` -> ``float32`` network input, on the same device; zero outside ``windows[B, 4]``.

    Images of floats are of bands, which are normalized already; they are changed in place.
    """
    normalized = images if images.is_floating_point() else _normalized(images, config)
    if windows is not None:
        size = normalized.shape[-2:]
        for image, (top, left, height, width) in zip(normalized, windows.tolist(), strict=True):
            if (height, width) != tuple(size):
                filled = image[:, top : top + height, left : left + width].clone()
                image.zero_()
                image[:, top : top + height, left : left + width] = filled
    return normalized


def _normalized(images: Tensor, config: Normalization) -> Tensor:
    mean, std = _on_device(config.mean, images.device), _on_device(config.std, images.device)
    if config.order == "bgr":
        images = images.flip(1)
    return (images.float() / config.scale - mean) / std
