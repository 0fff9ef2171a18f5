"""Figures of refinement: image, ground truth, before and after, with an enlarged window."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_images, pair_files
from openseg.io.images import write_image
from openseg.io.matching import sample_key
from openseg.labels import IGNORE_INDEX

__all__ = ["comparison", "write_comparisons"]

_MARGIN = 6
_TITLE = 18
_ZOOM_PARTS = 4
_WRONG = (224, 24, 24)


def _wrong(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (labels != truth) & (truth != IGNORE_INDEX)


def _most_improved_window(before: np.ndarray, after: np.ndarray, truth: np.ndarray) -> tuple[slice, slice]:
    """The window, a quarter of each side, in which most wrong labels became right."""
    height, width = (max(length // _ZOOM_PARTS, 1) for length in truth.shape)
    gain = _wrong(before, truth).astype(np.float32) - _wrong(after, truth)
    total = cv2.boxFilter(gain, -1, (width, height), normalize=False, anchor=(0, 0))
    total = total[: truth.shape[0] - height + 1, : truth.shape[1] - width + 1]
    top, left = (int(i) for i in np.unravel_index(int(total.argmax()), total.shape))
    return slice(top, top + height), slice(left, left + width)


def _with_errors(labels: np.ndarray, truth: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Pale colors where the label is right or the ground truth unknown, red where it is wrong."""
    picture = (0.45 * info.colorize(labels) + 0.55 * 255).astype(np.uint8)
    picture[_wrong(labels, truth)] = _WRONG
    return picture


def comparison(image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray, dataset: str) -> np.ndarray:
    """One image: image, ground truth, before and after; below them the most improved part, errors in red.

    Args:
        image: RGB ``uint8[H, W, 3]``.
        truth, before, after: train IDs ``uint8[H, W]``.
    """
    info = get_dataset_info(dataset)
    rows, columns = _most_improved_window(before, after, truth)
    panels = {
        "image": (image, image),
        "ground truth": (info.colorize(truth), info.colorize(truth)),
        "before": (info.colorize(before), _with_errors(before, truth, info)),
        "after SegFix": (info.colorize(after), _with_errors(after, truth, info)),
    }
    height, width = truth.shape
    size = (len(panels) * (width + _MARGIN) + _MARGIN, 2 * (height + _MARGIN) + _TITLE)
    page = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(page)
    for number, (title, (whole, part)) in enumerate(panels.items()):
        x = _MARGIN + number * (width + _MARGIN)
        draw.text((x, 4), title, fill=(0, 0, 0))
        page.paste(Image.fromarray(whole), (x, _TITLE))
        box = (x + columns.start, _TITLE + rows.start, x + columns.stop - 1, _TITLE + rows.stop - 1)
        draw.rectangle(box, outline=(255, 150, 0), width=2)
        enlarged = cv2.resize(part[rows, columns], (width, height), interpolation=cv2.INTER_NEAREST)
        page.paste(Image.fromarray(enlarged), (x, _TITLE + height + _MARGIN))
    return np.asarray(page)


def write_comparisons(
    triples: Sequence[tuple[Path, Path, Path]], split: SplitPaths, dataset: str, out: Path, count: int
) -> list[Path]:
    """Draw the ``count`` samples in which most wrong labels became right; ``triples`` are before, after, truth.

    Returns the files written.
    """
    info = get_dataset_info(dataset)
    images = pair_files([before for before, _, _ in triples], list_images(split), "image")

    def load(index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        before, after, truth = triples[index]
        return info.read_truth(truth), info.read_prediction(before), info.read_prediction(after)

    gains = []
    for index in range(len(triples)):
        truth, before, after = load(index)
        gains.append(np.count_nonzero(_wrong(before, truth)) - np.count_nonzero(_wrong(after, truth)))
    written = []
    for index in np.argsort(gains, kind="stable")[::-1][:count]:
        key = sample_key(triples[index][0])
        path = out / f"{key}.png"
        write_image(path, comparison(info.read_rgb(images[key][1]), *load(index), dataset))
        written.append(path)
    return written
