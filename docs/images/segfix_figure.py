"""Draws docs/images/segfix.png: a part of a rendered street with its true offsets, and labels before and after."""

import sys
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "lib"))

from openseg.datasets.registry import get_dataset_info
from openseg.segfix import OffsetMap, directions_to_offsets, make_targets, refine
from openseg_demo.scenes import render_scene

WINDOW = (slice(96, 140), slice(196, 240))
ZOOM, GAP = 8, 8
RED = (224, 24, 24)


def displaced(labels: np.ndarray) -> np.ndarray:
    """Labels with outlines up to a few pixels beside the true ones."""
    height, width = labels.shape
    rng = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    coarse = [1.3 * rng.standard_normal((height // 12, width // 12)).astype(np.float32) for _ in range(2)]
    dy, dx = (cv2.resize(each, (width, height), interpolation=cv2.INTER_CUBIC) for each in coarse)
    return cv2.remap(labels, x + dx, y + dy, cv2.INTER_NEAREST, borderMode=cv2.BORDER_REPLICATE)


def enlarged(picture: np.ndarray) -> Image.Image:
    part = Image.fromarray(np.ascontiguousarray(picture[WINDOW]))
    return part.resize((part.width * ZOOM, part.height * ZOOM), Image.Resampling.NEAREST)


def with_errors(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    colors = (0.6 * get_dataset_info("cityscapes").colorize(labels) + 0.4 * 255).astype(np.uint8)
    colors[labels != truth] = RED
    return colors


def with_arrows(image: np.ndarray, offsets: OffsetMap) -> Image.Image:
    picture = enlarged(image)
    draw = ImageDraw.Draw(picture)
    moves = offsets.offsets[WINDOW].astype(int)
    for row, column in np.argwhere(moves.any(axis=2)):
        dh, dw = moves[row, column]
        start = np.array([column, row]) * ZOOM + ZOOM / 2
        end = start + np.array([dw, dh]) * ZOOM * 0.7
        draw.line([tuple(start), tuple(end)], fill=(255, 255, 255), width=1)
        draw.ellipse([*(end - 1.5), *(end + 1.5)], fill=(255, 220, 0))
    return picture


def main() -> None:
    scene = render_scene(0, (256, 512), seed=1)
    truth = get_dataset_info("cityscapes").encode(scene.label)
    targets = make_targets(truth, "clean")
    mask, direction = targets.mask_and_direction(truth, max_distance=2)
    offsets = OffsetMap.of(directions_to_offsets(direction) * (mask == 1)[..., None])
    before = displaced(truth)
    after = refine(before, offsets, scale=2)
    panels = [with_arrows(scene.image, offsets), *(enlarged(with_errors(each, truth)) for each in (before, after))]
    width = sum(panel.width for panel in panels) + GAP * (len(panels) - 1)
    figure = Image.new("RGB", (width, panels[0].height), (255, 255, 255))
    left = 0
    for panel in panels:
        figure.paste(panel, (left, 0))
        left += panel.width + GAP
    figure.save(Path(__file__).with_name("segfix.png"), optimize=True)


if __name__ == "__main__":
    main()
