"""Directions of SegFix: angle codes of the ground truth, 8 direction labels, and (dh, dw) vectors.

Label d stands for the angle ``-180 + 45 d`` degrees, measured as ``atan2(gradient down, gradient right)`` of the
distance to the boundary, so it points into the object: 0 left, 1 up-left, 2 up, 3 up-right, 4 right, 5 down-right,
6 down, 7 down-left. Ground truth stores ``code = trunc((angle + 180) / 2)``, 0..180.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from openseg.labels import IGNORE_INDEX

__all__ = [
    "DIRECTION_VECTORS",
    "NUM_DIRECTIONS",
    "angles_to_directions",
    "candidate_steps",
    "codes_to_directions",
    "directions_to_codes",
    "directions_to_offsets",
    "flip_codes",
]

NUM_DIRECTIONS = 8
DIRECTION_VECTORS = np.array(
    [(0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1)],
    dtype=np.int8,
)
"""``int8[8, 2]``: (dh, dw) of each direction label."""


def candidate_steps(radii: Sequence[int]) -> np.ndarray:
    """(dh, dw) of the pixels whose labels a refiner may take, ``int64[1 + 8 R, 2]``: itself, then 8 at each radius."""
    return np.concatenate([np.zeros((1, 2), np.int64), *[DIRECTION_VECTORS.astype(np.int64) * each for each in radii]])


def angles_to_directions(angles: np.ndarray) -> np.ndarray:
    """Degrees in [-180, 180] -> nearest of 8 direction labels, ``uint8``; an angle between two belongs to the lower."""
    return (np.ceil((np.asarray(angles, np.float64) + 157.5) / 45).astype(np.int64) % NUM_DIRECTIONS).astype(np.uint8)


_CODE_TABLE = np.full(256, IGNORE_INDEX, np.uint8)
_CODE_TABLE[:181] = angles_to_directions(2.0 * np.arange(181) - 180)
_FLIP_TABLE = np.arange(256, dtype=np.uint8)
_FLIP_TABLE[:181] = (270 - np.arange(181)) % 180
_VECTOR_TABLE = np.zeros((256, 2), np.int8)
_VECTOR_TABLE[:NUM_DIRECTIONS] = DIRECTION_VECTORS


def codes_to_directions(codes: np.ndarray) -> np.ndarray:
    """Angle codes ``uint8`` (0..180) of the ground truth -> direction labels ``uint8``; other codes give 255."""
    return _CODE_TABLE[codes]


def directions_to_codes(directions: np.ndarray) -> np.ndarray:
    """Direction labels 0..7 -> the angle codes ``uint8`` of their middles."""
    return (np.asarray(directions) * 45 // 2).astype(np.uint8)


def flip_codes(codes: np.ndarray) -> np.ndarray:
    """Angle codes after a mirror image: the angle ``a`` becomes ``180 - a``. The array itself is not mirrored."""
    return _FLIP_TABLE[codes]


def directions_to_offsets(directions: np.ndarray) -> np.ndarray:
    """Direction labels ``uint8[H, W]`` -> offsets ``int8[H, W, 2]`` (dh, dw); 255 gives no movement."""
    # Both bytes of a vector at once: several times faster than looking up rows of two.
    packed = np.take(_VECTOR_TABLE.view(np.int16)[:, 0], directions)
    return packed.view(np.int8).reshape(*directions.shape, 2)
