"""The files of one sample in a report: a script that holds image and label maps, and small images for the gallery.

A page that is opened from a disk may not read the pixels of image files, so that it could not hide or recolor
classes; those of images inside a script it may.
"""

from __future__ import annotations

import base64
import colorsys
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.io.files import atomic_write
from openseg.io.images import require_same_size
from openseg.io.results import Journal
from openseg.tools.scoring import read_prediction

__all__ = ["Sample", "safe_colors", "write_sample"]

_LABEL_SIDE = 4096  # pixels of the longer side that a browser recolors without a pause
_IMAGE_SIDE = 2048
_THUMB_WIDTH, _THUMB_HEIGHT = 200, 150
_GAP = 3
_QUALITY = 85
# Okabe and Ito, "Color universal design", 2008: told apart with any color vision.
_SAFE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))


@dataclass(frozen=True)
class Sample:
    """Label files of one image by each of the results that are compared, its ground truth, and the image."""

    name: str
    predictions: tuple[Path, ...]
    truth: Path | None = None
    image: Path | None = None


def safe_colors(count: int) -> list[tuple[int, int, int]]:
    """Colors of classes for any color vision: seven hues, then the same lighter and darker."""
    rounds = -(-count // len(_SAFE))
    colors = list(_SAFE)
    for number in range(1, rounds):
        amount = -(-number // 2) / (-(-(rounds - 1) // 2) + 1)
        for color in _SAFE:
            hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in color))
            light = light + amount * (1 - light) if number % 2 == 0 else light * (1 - amount)
            red, green, blue = colorsys.hls_to_rgb(hue, light, saturation)
            colors.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colors[:count]


def write_sample(work: tuple[int, Sample], out: Path, dataset: str, train_ids: bool) -> tuple[int, int]:
    """Write ``samples/<number>.js``, and ``thumbs/<number>.jpg`` in the dataset's colors and in safe ones.

    Returns the width and height of the small image.

    Raises:
        DataError: a file cannot be read, or they differ in size.
    """
    number, sample = work
    info = get_dataset_info(dataset, fresh=False)
    maps = [read_prediction(path, info, train_ids) for path in sample.predictions]
    paths = [*sample.predictions]
    if sample.truth is not None:
        maps.insert(0, info.read_truth(sample.truth))
        paths.insert(0, sample.truth)
    for path, labels in zip(paths, maps, strict=True):
        require_same_size(path, labels.shape, paths[0], maps[0].shape)
    image = None if sample.image is None else info.read_rgb(sample.image)
    if image is not None and image.shape[:2] != maps[0].shape:
        # Labels of another size than their image are common where images are scaled for a network.
        image = cv2.resize(image, maps[0].shape[::-1], interpolation=cv2.INTER_AREA)
    content = {
        "image": None if image is None else _data_url(".jpg", _shrink(image, _IMAGE_SIDE)[..., ::-1]),
        "truth": None if sample.truth is None else _data_url(".png", _shrink(maps[0], _LABEL_SIDE)),
        "labels": [_data_url(".png", _shrink(each, _LABEL_SIDE)) for each in maps[sample.truth is not None :]],
    }
    with Journal(out).writing():
        with atomic_write(out / "samples" / f"{number}.js", durable=False) as temporary:
            temporary.write_text(f"openseg.sample({number}, {json.dumps(content)});\n", encoding="ascii")
        return _write_thumbs(out, number, image, maps, info)


def _write_thumbs(
    out: Path, number: int, image: np.ndarray | None, maps: list[np.ndarray], info: DatasetInfo
) -> tuple[int, int]:
    for suffix, colors in (("", info.colors), ("_safe", safe_colors(info.num_classes))):
        table = np.zeros((256, 3), np.uint8)
        table[: info.num_classes] = colors
        strip = _strip(image, [table[_small(each)] for each in maps])
        with atomic_write(out / "thumbs" / f"{number}{suffix}.jpg", durable=False) as temporary:
            temporary.write_bytes(_encode(".jpg", strip[..., ::-1]))
    return strip.shape[1], strip.shape[0]


def _shrink(picture: np.ndarray, side: int) -> np.ndarray:
    """An image or label map whose longer side is at most ``side`` pixels."""
    factor = side / max(picture.shape[:2])
    if factor >= 1:
        return picture
    how = cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST
    return cv2.resize(picture, None, fx=factor, fy=factor, interpolation=how)


def _small(picture: np.ndarray) -> np.ndarray:
    factor = min(_THUMB_WIDTH / picture.shape[1], _THUMB_HEIGHT / picture.shape[0])
    size = (max(round(picture.shape[1] * factor), 1), max(round(picture.shape[0] * factor), 1))
    return cv2.resize(picture, size, interpolation=cv2.INTER_AREA if picture.ndim == 3 else cv2.INTER_NEAREST)


def _strip(image: np.ndarray | None, labels: Sequence[np.ndarray]) -> np.ndarray:
    """Small images side by side."""
    panels = [*labels] if image is None else [_small(image), *labels]
    gap = np.full((panels[0].shape[0], _GAP, 3), 255, np.uint8)
    return np.concatenate([part for panel in panels for part in (panel, gap)][:-1], axis=1)


def _encode(kind: str, picture: np.ndarray) -> bytes:
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY] if kind == ".jpg" else []
    return cv2.imencode(kind, np.ascontiguousarray(picture), options)[1].tobytes()


def _data_url(kind: str, picture: np.ndarray) -> str:
    mime = {".jpg": "image/jpeg", ".png": "image/png"}[kind]
    return f"data:{mime};base64,{base64.b64encode(_encode(kind, picture)).decode('ascii')}"
