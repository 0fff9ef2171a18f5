"""Pictures of what SegFix changed: image, truth, before and after, with a window enlarged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from openseg.catalog import IGNORE, get_catalog
from openseg.data.folder import index_files
from openseg.files import list_files, read_image, read_label, sample_key, write_image

__all__ = ["comparison", "write_comparisons"]

_BACKGROUND = (255, 255, 255)
_MARGIN = 6
_TITLE = 18
_ZOOM_PARTS = 4


def _busiest_window(before: np.ndarray, after: np.ndarray) -> tuple[slice, slice]:
    """The window, a quarter of each side, in which most labels changed."""
    height, width = (max(length // _ZOOM_PARTS, 1) for length in before.shape)
    changed = cv2.boxFilter((before != after).astype(np.float32), -1, (width, height), normalize=False, anchor=(0, 0))
    changed = changed[: before.shape[0] - height + 1, : before.shape[1] - width + 1]
    top, left = np.unravel_index(int(changed.argmax()), changed.shape)
    return slice(int(top), int(top) + height), slice(int(left), int(left) + width)


def _errors(labels: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """White: right; grey: ignored; red: wrong."""
    picture = np.full((*labels.shape, 3), 255, np.uint8)
    picture[truth == IGNORE] = 200
    picture[(labels != truth) & (truth != IGNORE)] = (214, 40, 40)
    return picture


def comparison(image: np.ndarray, truth: np.ndarray, before: np.ndarray, after: np.ndarray, dataset: str) -> np.ndarray:
    """One picture ``uint8``: columns image, truth, before, after, errors before, errors after; below, a part enlarged.

    Args:
        image: RGB ``uint8[H, W, 3]``.
        truth, before, after: training ids ``uint8[H, W]``.
    """
    catalog = get_catalog(dataset)
    columns = {
        "image": image,
        "truth": catalog.colorize(truth),
        "before": catalog.colorize(before),
        "after SegFix": catalog.colorize(after),
        "errors before": _errors(before, truth),
        "errors after": _errors(after, truth),
    }
    rows, left = _busiest_window(before, after)
    height, width = truth.shape
    page = Image.new(
        "RGB",
        (len(columns) * (width + _MARGIN) + _MARGIN, 2 * (height + _MARGIN) + _MARGIN + _TITLE),
        _BACKGROUND,
    )
    draw = ImageDraw.Draw(page)
    for number, (title, picture) in enumerate(columns.items()):
        x = _MARGIN + number * (width + _MARGIN)
        draw.text((x, 4), title, fill=(0, 0, 0))
        page.paste(Image.fromarray(picture), (x, _TITLE))
        draw.rectangle(
            (x + left.start, _TITLE + rows.start, x + left.stop, _TITLE + rows.stop), outline=(255, 160, 0), width=2
        )
        part = cv2.resize(picture[rows, left], (width, height), interpolation=cv2.INTER_NEAREST)
        page.paste(Image.fromarray(part), (x, _TITLE + height + _MARGIN))
    return np.asarray(page)


def write_comparisons(
    triples: Sequence[tuple[Path, Path, Path]], image_dir: Path, dataset: str, out: Path, count: int
) -> list[Path]:
    """Draw the ``count`` samples in which most wrong labels became right; ``triples`` are before, after, truth.

    Returns the files written.
    """
    catalog = get_catalog(dataset)
    images = index_files(list_files(image_dir))
    gains = []
    for before, after, truth in triples:
        true = catalog.encode(read_label(truth), truth)
        valid = true != IGNORE
        maps = [catalog.encode_prediction(read_label(path)) for path in (before, after)]
        wrong = [np.count_nonzero((labels != true) & valid) for labels in maps]
        gains.append(wrong[0] - wrong[1])
    written = []
    for index in np.argsort(gains)[::-1][:count]:
        before, after, truth = triples[index]
        picture = comparison(
            read_image(images[sample_key(truth)]),
            catalog.encode(read_label(truth), truth),
            catalog.encode_prediction(read_label(before)),
            catalog.encode_prediction(read_label(after)),
            dataset,
        )
        path = out / f"{sample_key(before)}.png"
        write_image(path, picture)
        written.append(path)
    return written
