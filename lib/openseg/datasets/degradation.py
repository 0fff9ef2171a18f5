"""Transforms for refiners: label maps with the errors that networks make, and noise and compression of images.

Distorted ground truth stands for predictions, as in Cheng et al., "CascadePSP", CVPR 2020.
"""

from __future__ import annotations

from typing import Annotated

import cv2
import numpy as np
from pydantic import Field

from openseg.datasets.augmentations import TRANSFORMS, Probability, Sample, Sigma
from openseg.errors import ConfigError
from openseg.labels import IGNORE_INDEX

__all__ = ["degrade", "degraded", "displaced", "jpeg", "noise"]

_LARGEST_BLUR = 1.0
_WEIGHT_SPREAD = 0.25
_CELLS = (8, 64)
_MOST_GROWTH = 3
_GROWN_SHARE = 1 / 3


def degrade(
    sample: Sample,
    rng: np.random.Generator,
    probability: Annotated[float, Field(ge=0, le=1, description="how often; otherwise the prediction or truth")] = 0.95,
    stride: Annotated[
        tuple[Annotated[float, Field(ge=1)], Annotated[float, Field(ge=1)]],
        Field(description="range of the output stride of the imitated network"),
    ] = (2.0, 8.0),
    shift: Annotated[tuple[Sigma, Sigma], Field(description="range of boundary displacements in pixels")] = (0.5, 3.0),
) -> Sample:
    """Make the labels that a refiner is to refine out of the ground truth: ``sample.maps["coarse"]``.

    Ignored pixels first take the nearest class. Then, each with a probability of its own: classes are resampled at the
    ``stride`` of a network's output, where thin parts get lost; boundaries move smoothly by some pixels; parts of some
    classes grow. Where it does not happen, labels are those of ``data.predictions``, or the ground truth itself.
    """
    if rng.random() < probability:
        sample.maps["coarse"] = _degraded(sample.maps["label"], rng, stride, shift)
    else:
        sample.maps.setdefault("coarse", sample.maps["label"].copy())
    return sample


def degraded(truth: np.ndarray, rng: np.random.Generator, **options: tuple[float, float]) -> np.ndarray:
    """Labels ``uint8[H, W]`` with errors, see ``degrade``; ``options`` are its ``stride`` and ``shift``."""
    sample = Sample(np.zeros((*truth.shape, 3), np.uint8), {"label": truth}, (0, 0, *truth.shape))
    return degrade(sample, rng, 1.0, **options).maps["coarse"]


def _degraded(
    truth: np.ndarray, rng: np.random.Generator, stride: tuple[float, float], shift: tuple[float, float]
) -> np.ndarray:
    labels = _without_ignored(truth)
    if rng.random() < 0.85:
        labels = _resampled(labels, rng, float(np.exp(rng.uniform(*np.log(stride)))))
    if rng.random() < 0.8:
        pixels = rng.uniform(*shift)
        labels = displaced(labels, rng, pixels, int(rng.integers(*_CELLS)))
    if rng.random() < 0.4:
        labels = _grown(labels, rng)
    return labels


def _without_ignored(labels: np.ndarray) -> np.ndarray:
    """Ignored pixels take the nearest label, as no network predicts that a pixel is ignored."""
    ignored = labels == IGNORE_INDEX
    if not ignored.any() or ignored.all():
        return labels.copy()
    _, numbers = cv2.distanceTransformWithLabels(
        ignored.astype(np.uint8), cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_PIXEL
    )
    table = np.zeros(numbers.max() + 1, np.uint8)
    table[numbers[~ignored]] = labels[~ignored]
    return table[numbers]


def _resampled(labels: np.ndarray, rng: np.random.Generator, stride: float) -> np.ndarray:
    """Scores of each class at the resolution of a network's output, and the best class after their resize."""
    height, width = labels.shape
    size = max(round(width / stride), 1), max(round(height / stride), 1)
    how = cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_NEAREST
    blur = rng.uniform(0.3, _LARGEST_BLUR) if rng.random() < 0.5 else 0.0
    classes = np.unique(labels)
    best = np.full(labels.shape, -1.0, np.float32)
    found = labels.copy()
    for value, weight in zip(classes, np.exp(rng.normal(0, _WEIGHT_SPREAD, len(classes))), strict=True):
        scores = cv2.resize((labels == value).astype(np.float32), size, interpolation=how)
        if blur:
            scores = cv2.GaussianBlur(scores, (0, 0), blur)
        scores = cv2.resize(scores * np.float32(weight), (width, height), interpolation=cv2.INTER_LINEAR)
        better = scores > best
        best[better], found[better] = scores[better], value
    return found


def displaced(labels: np.ndarray, rng: np.random.Generator, pixels: float, cell: int) -> np.ndarray:
    """Move boundaries by about ``pixels`` with a smooth flow that changes every ``cell`` pixels."""
    height, width = labels.shape
    y, x = np.mgrid[:height, :width].astype(np.float32)
    coarse = pixels * rng.standard_normal((2, height // cell + 2, width // cell + 2)).astype(np.float32)
    dy, dx = (cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in coarse)
    return cv2.remap(labels, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def _grown(labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Some classes spread over their neighbors in places."""
    height, width = labels.shape
    labels = labels.copy()
    for value in np.unique(labels):
        if rng.random() > _GROWN_SHARE:
            continue
        side = 2 * int(rng.integers(1, _MOST_GROWTH + 1)) + 1
        block = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
        wide = cv2.dilate((labels == value).astype(np.uint8), block) > 0
        where = cv2.resize(rng.standard_normal((height // 24 + 2, width // 24 + 2)), (width, height)) > 0
        labels[wide & where] = value
    return labels


def noise(
    sample: Sample,
    rng: np.random.Generator,
    sigma: Annotated[tuple[Sigma, Sigma], Field(description="range of the standard deviation in gray values")] = (
        1,
        12,
    ),
    probability: Probability = 0.5,
) -> Sample:
    """Add Gaussian noise to the image."""
    happens, strength = rng.random() < probability, rng.uniform(min(sigma), max(sigma))
    if happens and sample.window[2] and sample.window[3]:
        _require_rgb(sample, "noise")
        part = sample.image[sample.area]
        changed = part + rng.normal(0, strength, part.shape).astype(np.float32)
        sample.image[sample.area] = changed.round().clip(0, 255).astype(np.uint8)
    return sample


def jpeg(
    sample: Sample,
    rng: np.random.Generator,
    quality: Annotated[
        tuple[Annotated[int, Field(ge=1, le=100)], Annotated[int, Field(ge=1, le=100)]],
        Field(description="range of the quality, 100 the best"),
    ] = (30, 95),
    probability: Probability = 0.5,
) -> Sample:
    """Compress the image as JPEG and decode it."""
    happens, chosen = rng.random() < probability, int(rng.integers(min(quality), max(quality) + 1))
    if happens and sample.window[2] and sample.window[3]:
        _require_rgb(sample, "jpeg")
        part = np.ascontiguousarray(sample.image[sample.area][..., ::-1])
        encoded = cv2.imencode(".jpg", part, [cv2.IMWRITE_JPEG_QUALITY, chosen])[1]
        sample.image[sample.area] = np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))[..., ::-1]
    return sample


def _require_rgb(sample: Sample, name: str) -> None:
    if sample.image.dtype != np.uint8:
        raise ConfigError(f"augment.transforms: {name} is for RGB images, the dataset's have bands; remove it")


for _function in (degrade, noise, jpeg):
    TRANSFORMS[_function.__name__] = _function
