"""Label maps as polygons."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from openseg.datasets.info import DatasetInfo

__all__ = ["polygons_of"]


def polygons_of(labels: np.ndarray, info: DatasetInfo) -> list[dict[str, Any]]:
    """The connected regions of a map of train IDs ``uint8[H, W]``, as lists of ``[x, y]`` of pixels on their boundary.

    Each has its ``class``, ``id``, ``area`` in pixels, ``points`` and, as such lists, ``holes``; filled with
    ``cv2.drawContours`` they give the region again.
    """
    found = []
    for number in np.unique(labels):
        if number >= info.num_classes:
            continue
        mask = (labels == number).astype(np.uint8)
        contours, hierarchy = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
        for place, (_, _, hole, parent) in enumerate(hierarchy[0]):
            if parent >= 0:
                continue
            holes = []
            while hole >= 0:
                holes.append(contours[hole])
                hole = hierarchy[0][hole][0]
            found.append(
                {
                    "class": info.classes[number],
                    "id": int(info.ids[number]),
                    "area": _area(contours[place], holes),
                    "points": contours[place][:, 0].tolist(),
                    "holes": [each[:, 0].tolist() for each in holes],
                }
            )
    return found


def _area(outside: np.ndarray, holes: list[np.ndarray]) -> int:
    """Pixels of a region, in its bounding box."""
    x, y, width, height = cv2.boundingRect(outside)
    canvas = np.zeros((height, width), np.uint8)
    cv2.drawContours(canvas, [outside, *holes], -1, 1, cv2.FILLED, offset=(-x, -y))
    return int(np.count_nonzero(canvas))
