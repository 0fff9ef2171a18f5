"""Random textured shapes over each other: images of nothing, with exact labels, from which a refiner learns boundaries.

After the dead leaves model (Lee, Mumford, Huang: "Occlusion Models for Natural Images", IJCV 2001).
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from openseg.io.images import write_image, write_label

__all__ = ["render_shapes", "write_shapes"]

IDS = np.array([7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33], np.uint8)
"""Label IDs of the demo's classes; which shape gets which is random."""
_OVERSAMPLING = 2
_OFFSET = 900_000  # keeps the draws apart from those of the streets


def write_shapes(where: tuple[Path, int], size: tuple[int, int], seed: int) -> None:
    """Render image ``where[1]`` into ``where[0]/{image,label}``; one that is there is kept."""
    folder, number = where
    name = f"shapes_{seed:06d}_{number:06d}_leftImg8bit.png"
    if (folder / "label" / name).exists():  # written last
        return
    image, label = render_shapes(number, size, seed)
    write_image(folder / "image" / name, image)
    write_label(folder / "label" / name, label)


def render_shapes(index: int, size: tuple[int, int] = (256, 352), seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Image ``uint8[H, W, 3]`` and label IDs ``uint8[H, W]``; the same arguments give the same image."""
    rng = np.random.default_rng([seed, index + _OFFSET])
    large = size[0] * _OVERSAMPLING, size[1] * _OVERSAMPLING
    rgb = _texture(rng, large)
    label = np.full(large, rng.choice(IDS), np.uint8)
    count = int(rng.integers(20, 70))
    radii = np.sort(np.exp(rng.uniform(np.log(6), np.log(max(large) / 3), count)))[::-1]
    for radius in radii * rng.uniform(0.6, 1.6, count):  # roughly from large to small
        mask = _shape(rng, large, float(radius))
        if rng.random() < 0.4:
            _cast_shadow(rng, rgb, mask)
        left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
        area = slice(top, top + height), slice(left, left + width)
        if width and height:
            rgb[area][mask[area]] = _texture(rng, (height, width))[mask[area]]
            label[mask] = rng.choice(IDS)
    half = _OVERSAMPLING // 2
    image = cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 0.8))
    image += rng.normal(0, rng.uniform(0.5, 4), image.shape).astype(np.float32)
    return image.clip(0, 255).astype(np.uint8), label[half::_OVERSAMPLING, half::_OVERSAMPLING].copy()


def _texture(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """A color with a gradient, spots of one or two sizes, and perhaps stripes, ``float32[H, W, 3]``."""
    height, width = size
    color = rng.uniform(15, 240, 3) if rng.random() < 0.5 else rng.uniform(15, 240) + rng.normal(0, 12, 3)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    gray = rng.normal(0, 18) * y + rng.normal(0, 18) * x
    for _ in range(int(rng.integers(1, 3))):
        period = int(np.exp(rng.uniform(np.log(2), np.log(40))))
        spots = rng.standard_normal((height // period + 2, width // period + 2)).astype(np.float32)
        gray = gray + rng.uniform(1, 14) * cv2.resize(spots, (width, height), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.25:
        angle, period = rng.uniform(0, np.pi), rng.uniform(6, 50)
        wave = np.sin((np.cos(angle) * x * width + np.sin(angle) * y * height) * np.pi / period)
        gray = gray + rng.uniform(5, 30) * (np.sign(wave) if rng.random() < 0.5 else wave)
    tint = 1 + rng.normal(0, 0.1, 3)
    return (color + gray[..., None] * tint).astype(np.float32)


def _shape(rng: np.random.Generator, size: tuple[int, int], radius: float) -> np.ndarray:
    """A mask ``bool[H, W]``: polygon, blob, ellipse, box or line."""
    height, width = size
    mask = np.zeros(size, np.uint8)
    center = rng.uniform(0, [width, height])
    kind = rng.choice(["polygon", "blob", "ellipse", "box", "line"], p=[0.25, 0.25, 0.15, 0.15, 0.2])
    if kind == "line":
        angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else rng.choice([0, np.pi / 2]) + rng.normal(0, 0.05)
        reach = radius * rng.uniform(1, 4) * np.array([np.cos(angle), np.sin(angle)])
        ends = [tuple(int(v) for v in center + sign * reach) for sign in (-1, 1)]
        cv2.line(mask, ends[0], ends[1], 1, int(np.exp(rng.uniform(np.log(2), np.log(14)))))
        return mask > 0
    if kind == "ellipse":
        axes = radius * np.exp(rng.normal(0, 0.4, 2))
        turn = rng.uniform(0, 180)
        cv2.ellipse(mask, (tuple(center.tolist()), tuple((2 * axes).tolist()), turn), 1, -1)
        return mask > 0
    if kind == "box":
        half = radius * np.exp(rng.normal(0, 0.5, 2))
        points = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
    elif kind == "polygon":
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 9))))
        points = radius * rng.uniform(0.4, 1.3, len(angles))[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    else:
        angles = np.linspace(0, 2 * np.pi, 64, endpoint=False)
        waves = sum(
            rng.normal(0, 0.35 / k) * np.cos(k * angles) + rng.normal(0, 0.35 / k) * np.sin(k * angles)
            for k in range(1, 7)
        )
        points = (radius * np.clip(1 + waves, 0.2, 2.5))[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
    turn = rng.normal(0, 0.2) if kind == "box" else rng.uniform(0, 2 * np.pi)
    turned = points @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    cv2.fillPoly(mask, [((turned + center) * 16).round().astype(np.int32)], 1, shift=4)
    return mask > 0


def _cast_shadow(rng: np.random.Generator, rgb: np.ndarray, mask: np.ndarray) -> None:
    """Darken what lies beside a shape, which itself is painted afterwards."""
    shift = np.float32([[1, 0, rng.normal(0, 8)], [0, 1, rng.normal(0, 8)]])
    moved = cv2.warpAffine(mask.astype(np.float32), shift, mask.shape[::-1])
    rgb *= 1 - rng.uniform(0.2, 0.6) * cv2.GaussianBlur(moved, (0, 0), rng.uniform(1, 8))[..., None]
