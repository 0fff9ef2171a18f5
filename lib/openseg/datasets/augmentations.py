"""Random transforms of training samples, listed under ``augment.transforms`` of a config; users can register more.

Each transform draws from its own random stream, seeded by the run's seed, the draw number, the transform's name and
how many transforms of the same name precede it. Inserting one therefore does not change the draws of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import cv2
import numpy as np
from pydantic import Field

from openseg.errors import ConfigError
from openseg.labels import IGNORE_INDEX
from openseg.registry import Registry
from openseg.segfix.targets import NO_ANGLE

__all__ = [
    "FILL",
    "TRANSFORMS",
    "Sample",
    "color_jitter",
    "cutout",
    "gaussian_blur",
    "paste",
    "register_transform",
    "rotation",
]

FILL = {"label": IGNORE_INDEX, "coarse": IGNORE_INDEX, "depth": 255, "angle_code": NO_ANGLE}
"""Padding of each kind of map."""

_MEAN_COLOR = (124, 116, 104)
"""RGB that is about zero after normalization with the statistics of ImageNet."""

Sigma = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(ge=0, le=1, description="how often it happens")]
Strength = Annotated[float, Field(ge=0, lt=1, description="x of factors from 1 - x to 1 + x; 0: unchanged")]


@dataclass
class Sample:
    """An image and maps ``uint8[H, W]`` by kind (``label``, ``depth``, ``angle_code``, ``coarse``).

    ``image`` is RGB ``uint8[H, W, 3]``, or, where the dataset lists bands, ``float32[H, W, C]``, normalized.

    ``window`` is (top, left, height, width) of the part without padding; ``mirrored`` whether left and right are
    exchanged.
    """

    image: np.ndarray
    maps: dict[str, np.ndarray]
    window: tuple[int, int, int, int]
    mirrored: bool = False

    @property
    def area(self) -> tuple[slice, slice]:
        """The window as row and column slices."""
        top, left, height, width = self.window
        return slice(top, top + height), slice(left, left + width)

    @property
    def fill(self) -> np.ndarray:
        """The value of blank pixels, about zero after normalization, ``[C]``."""
        if self.image.dtype == np.uint8:
            return np.array(_MEAN_COLOR, np.uint8)
        return np.zeros(self.image.shape[2], self.image.dtype)


TRANSFORMS: Registry[Callable[..., Sample]] = Registry("transform")


def register_transform(name: str, function: Callable[..., Sample] | None = None) -> Any:
    """Register ``function(sample, rng, **options)`` as transform ``name``; without ``function``, return a decorator.

    The function receives a ``Sample`` of the crop size, which it may modify, and its own ``numpy.random.Generator``,
    and returns a ``Sample``. Further parameters become config keys. A geometric transform must be applied to the image
    and to all maps.

    Args:
        name: used in configs.
        function: the transform.

    Returns:
        ``function``, or a decorator.

    Examples:
        >>> import openseg
        >>> @openseg.register_transform("invert")
        ... def invert(sample, rng):
        ...     sample.image = 255 - sample.image
        ...     return sample

    Raises:
        ConfigError: the name is taken.
    """
    return TRANSFORMS.register(name, function)


def paste(sample: Sample, other: Sample, classes: np.ndarray) -> None:
    """Copy the pixels of ``classes`` (train IDs) in ``other`` into ``sample``, both of one size; changes ``sample``.

    After Ghiasi et al., "Simple Copy-Paste is a Strong Data Augmentation Method", CVPR 2021, for semantic labels.
    """
    inside = np.zeros(sample.maps["label"].shape, bool)
    inside[sample.area] = True
    chosen = np.isin(other.maps["label"], classes) & inside
    sample.image = np.where(chosen[..., None], other.image, sample.image)
    sample.maps = {kind: np.where(chosen, other.maps[kind], values) for kind, values in sample.maps.items()}


def color_jitter(
    sample: Sample,
    rng: np.random.Generator,
    brightness: Strength = 0.2,
    contrast: Strength = 0.2,
    saturation: Strength = 0.2,
    hue: Annotated[float, Field(ge=0, le=0.5, description="largest turn, a share of the whole circle")] = 0.02,
) -> Sample:
    """Scale brightness, contrast and saturation by factors from ``1 - x`` to ``1 + x``, and shift the hue.

    ``hue`` is the maximum shift in either direction, as a fraction of the color circle.
    """
    if sample.image.dtype != np.uint8:
        raise ConfigError("augment.transforms: color_jitter is for RGB images, the dataset's have bands; remove it")
    factors = [1 + rng.uniform(-x, x) for x in (brightness, contrast, saturation)]
    turn = rng.uniform(-hue, hue)
    part = np.ascontiguousarray(sample.image[sample.area])
    if part.size:
        middle = factors[0] * part.mean()
        table = np.clip((np.arange(256) * factors[0] - middle) * factors[1] + middle, 0, 255).round()
        hsv = cv2.cvtColor(cv2.LUT(part, table.astype(np.uint8)), cv2.COLOR_RGB2HSV)
        hsv[..., 0] = ((hsv[..., 0].astype(np.int16) + round(180 * turn)) % 180).astype(np.uint8)
        hsv[..., 1] = cv2.LUT(hsv[..., 1], np.clip(np.arange(256) * factors[2], 0, 255).round().astype(np.uint8))
        sample.image[sample.area] = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return sample


def rotation(
    sample: Sample,
    rng: np.random.Generator,
    degrees: Annotated[float, Field(ge=0, le=180, description="largest angle to either side")] = 10.0,
    probability: Probability = 0.5,
) -> Sample:
    """Rotate by up to ``degrees`` in either direction about the center; pixels from outside are ignored."""
    happens, angle = rng.random() < probability, rng.uniform(-degrees, degrees)
    if not happens:
        return sample
    height, width = sample.image.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    canvas = np.empty_like(sample.image)
    canvas[:] = sample.fill
    canvas[sample.area] = sample.image[sample.area]
    warped = [  # OpenCV fills four channels at most
        cv2.warpAffine(
            np.ascontiguousarray(canvas[..., first : first + 3]),
            matrix,
            (width, height),
            flags=cv2.INTER_LINEAR,
            borderValue=sample.fill[first : first + 3].tolist(),
        ).reshape(height, width, -1)
        for first in range(0, canvas.shape[2], 3)
    ]
    image = np.concatenate(warped, axis=2) if len(warped) > 1 else warped[0]
    maps = {}
    for kind, values in sample.maps.items():
        if kind == "angle_code":  # in units of two degrees; image coordinates rotate the other way
            values = ((values.astype(np.int16) - round(angle / 2)) % 180).astype(np.uint8)
        fill = (FILL[kind],)
        maps[kind] = cv2.warpAffine(
            np.ascontiguousarray(values), matrix, (width, height), flags=cv2.INTER_NEAREST, borderValue=fill
        )
    return Sample(image, maps, (0, 0, height, width))


def gaussian_blur(
    sample: Sample,
    rng: np.random.Generator,
    sigma: Annotated[tuple[Sigma, Sigma], Field(description="range of the standard deviation in pixels")] = (0.1, 2.0),
    probability: Probability = 0.5,
) -> Sample:
    """Blur the image with a standard deviation in pixels from the range ``sigma``."""
    happens, strength = rng.random() < probability, rng.uniform(min(sigma), max(sigma))
    if happens and sample.window[2] and sample.window[3]:
        part = np.ascontiguousarray(sample.image[sample.area])
        sample.image[sample.area] = cv2.GaussianBlur(part, (0, 0), strength).reshape(part.shape)
    return sample


def cutout(
    sample: Sample,
    rng: np.random.Generator,
    holes: Annotated[int, Field(ge=1, description="number of rectangles")] = 1,
    size: Annotated[tuple[Share, Share], Field(description="range of sides, shares of the crop's")] = (0.05, 0.25),
    probability: Probability = 0.5,
) -> Sample:
    """Blank rectangles with sides of ``size`` (a range) times those of the crop; their pixels are ignored."""
    happens = rng.random() < probability
    lengths = sample.image.shape[:2]
    for shares, places in zip(rng.uniform(min(size), max(size), (holes, 2)), rng.random((holes, 2)), strict=True):
        sides = [round(share * length) for share, length in zip(shares, lengths, strict=True)]
        starts = [int(p * (length - side + 1)) for p, length, side in zip(places, lengths, sides, strict=True)]
        area = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
        if happens:
            sample.image[area] = sample.fill
            for kind, values in sample.maps.items():
                values[area] = FILL[kind]
    return sample


for _function in (color_jitter, rotation, gaussian_blur, cutout):
    TRANSFORMS[_function.__name__] = _function
