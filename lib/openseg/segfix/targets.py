"""Ground truth of SegFix: distance to the region's boundary and direction to its interior, per pixel.

The rule ``original`` is exact to the original's definition: the Euclidean distance to the nearest pixel of another
region (the image border is no boundary), and the angle of its gradient under a 5x5 kernel that sees zeros outside the
image; regions of a class with fewer than 100 pixels are boundary all over and point to the right.

The rule ``clean`` fixes what hurts there: small regions count like others, the image border does not bend angles, and a
pixel from which a step in its direction leads no further inside (the middle line of what is thin) is told to stay.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np

from openseg.arrays import require_map
from openseg.compiled import compiled
from openseg.labels import IGNORE_INDEX
from openseg.segfix.directions import DIRECTION_VECTORS, codes_to_directions
from openseg.segfix.distances import boundary_distances, inside_gradients

__all__ = ["RULES", "Rule", "Targets", "make_instance_targets", "make_targets"]

Rule = Literal["original", "clean"]
RULES: tuple[Rule, ...] = ("original", "clean")
MAX_DEPTH = 250
NO_ANGLE = 90
"""Code of 0 degrees, stored where there is no angle."""
DEGREES_PER_CODE = 2
MIN_REGION_PIXELS = 100


@dataclass(frozen=True)
class Targets:
    """``depth: uint8[H, W]`` in pixels (0..250) and ``angle_code: uint8[H, W]`` (0..180, see ``directions``).

    Pixels without an offset have depth 250, whatever their distance.
    """

    depth: np.ndarray
    angle_code: np.ndarray

    def mask_and_direction(self, labels: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
        """Boundary mask (0, 1) and direction (0..7), ``uint8[H, W]``; 255 where ``labels`` is ignored."""
        ignored = labels == IGNORE_INDEX
        mask = np.where(ignored, IGNORE_INDEX, self.depth <= max_distance).astype(np.uint8)
        direction = np.where(ignored, IGNORE_INDEX, codes_to_directions(self.angle_code)).astype(np.uint8)
        return mask, direction


def make_targets(labels: np.ndarray, rule: Rule = "original") -> Targets:
    """Targets of a label map ``uint8[H, W]`` of train IDs; pixels of ``IGNORE_INDEX`` get depth 0 and code 90.

    So do, by the rule ``original``, those of classes with fewer than 100 pixels.

    Raises:
        DataError: no map of integers from 0 to 255.
    """
    labels = require_map(labels, "labels")
    left_out = np.zeros(256, np.bool_)
    if rule == "original":
        left_out = np.bincount(labels.ravel(), minlength=256) < MIN_REGION_PIXELS
    left_out[IGNORE_INDEX] = True
    return _region_targets(labels, rule, left_out)


def make_instance_targets(instances: np.ndarray, ids: Collection[int], rule: Rule = "original") -> Targets:
    """Targets of an instance map ``uint16[H, W]`` in the layout of Cityscapes.

    Each distinct value is a region, also the smallest: ``id * 1000 + number`` of things, plain ids of stuff; the plain
    ids that are not in ``ids`` (the evaluated classes) are one region together.

    Raises:
        DataError: no map of integers from 0 to 65535.
    """
    instances = require_map(instances, "values of instance maps", most=(1 << 16) - 1)
    table = np.arange(1 << 16, dtype=np.uint16)
    table[: IGNORE_INDEX + 1][~np.isin(np.arange(IGNORE_INDEX + 1), list(ids))] = IGNORE_INDEX
    return _region_targets(table[instances], rule, np.zeros(1 << 16, np.bool_))


def _region_targets(regions: np.ndarray, rule: Rule, left_out: np.ndarray) -> Targets:
    """Targets of a map of regions; ``left_out: bool[values]`` are those that get depth 0 and code 90."""
    regions = regions.astype(regions.dtype.newbyteorder("="), copy=False)
    distances = boundary_distances(regions, far=MAX_DEPTH)
    down, right = inside_gradients(regions, distances, repeat_border=rule == "clean")
    angle = np.arctan2(down, right, out=down)
    np.degrees(angle, out=angle)
    angle += 180
    angle /= DEGREES_PER_CODE
    code = angle.astype(np.uint8)
    depth = np.minimum(distances, MAX_DEPTH, out=right).astype(np.uint8)
    if rule == "clean":
        _keep_ridges(regions, distances, codes_to_directions(code), DIRECTION_VECTORS, depth)
    _leave_out(regions, left_out, depth, code)
    return Targets(depth, code)


@compiled
def _keep_ridges(
    regions: np.ndarray, distances: np.ndarray, directions: np.ndarray, vectors: np.ndarray, depth: np.ndarray
) -> None:
    """Sets the largest depth where a step in the pixel's direction leaves its region or leads no further inside."""
    height, width = regions.shape
    for y in range(height):
        for x in range(width):
            down, right = vectors[directions[y, x]]
            to_y, to_x = min(max(y + down, 0), height - 1), min(max(x + right, 0), width - 1)
            if regions[to_y, to_x] != regions[y, x] or distances[to_y, to_x] <= distances[y, x]:
                depth[y, x] = 250


@compiled
def _leave_out(regions: np.ndarray, left_out: np.ndarray, depth: np.ndarray, code: np.ndarray) -> None:
    for y in range(regions.shape[0]):
        for x in range(regions.shape[1]):
            if left_out[regions[y, x]]:
                depth[y, x] = 0
                code[y, x] = 90
