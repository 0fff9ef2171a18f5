"""Offset maps: the direction to the object's interior at each pixel, with its confidence."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from openseg.compiled import compiled
from openseg.errors import DataError
from openseg.segfix.directions import DIRECTION_VECTORS, NUM_DIRECTIONS

__all__ = ["LEVELS", "OffsetMap", "confidence_levels"]

LEVELS = 31
"""How many confidences are told apart: level / 30 is how sure the direction is, from 0 to 1."""

_NUM_CODES = 1 + NUM_DIRECTIONS * LEVELS
_VECTORS = np.zeros((256, 2), np.int8)
_VECTORS[1:_NUM_CODES] = DIRECTION_VECTORS.repeat(LEVELS, axis=0)
_CONFIDENCES = np.zeros(256, np.uint8)
_CONFIDENCES[1:_NUM_CODES] = np.tile(np.arange(LEVELS) * 255 / (LEVELS - 1) + 0.5, NUM_DIRECTIONS)
_LEVEL_TABLE = (np.arange(256) * (LEVELS - 1) / 255 + 0.5).astype(np.uint8)


@dataclass(frozen=True)
class OffsetMap:
    """Direction and confidence of each pixel in one byte, ``codes: uint8[H, W]``.

    0 is no offset; ``1 + 31 * direction + level`` is a step in a direction (see ``directions``) with confidence
    ``level / 30``.
    """

    codes: np.ndarray

    @staticmethod
    def of(offsets: np.ndarray, confidence: np.ndarray | None = None) -> OffsetMap:
        """The map of integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1}.

        Args:
            confidence: ``uint8[H, W]``, direction confidence times 255, stored in steps of 1/30; None is 255.

        Raises:
            DataError: other values, or another shape.
        """
        if not isinstance(offsets, np.ndarray) or not isinstance(confidence, (np.ndarray, type(None))):
            raise DataError("offsets and their confidence are NumPy arrays")
        if offsets.ndim != 3 or offsets.shape[2] != 2 or offsets.dtype.kind not in "iuf":
            kind = f"{offsets.dtype}{list(offsets.shape)}"
            raise DataError(f"offsets are numbers of height x width x 2 (dh, dw), these are {kind}")
        other = offsets.dtype.kind == "f" and offsets.itemsize not in (4, 8)  # types that numba does not have
        offsets = offsets.astype(np.float64 if other else offsets.dtype.newbyteorder("="), copy=False)
        if confidence is None:
            levels = np.full((1, 1), LEVELS - 1, np.uint8)
        elif confidence.dtype != np.uint8 or confidence.shape != offsets.shape[:2]:
            raise DataError(
                f"confidence is uint8{list(offsets.shape[:2])}, this is {confidence.dtype}{list(confidence.shape)}"
            )
        else:
            levels = _LEVEL_TABLE[confidence]
        down, right, turned = _planes(offsets)
        levels = np.ascontiguousarray(levels.T if turned else levels)
        codes = np.empty(down.shape, np.uint8)
        if not _pack(down.reshape(-1), right.reshape(-1), levels.reshape(-1), codes.reshape(-1)):
            raise DataError(f"offsets must be -1, 0 or 1, these are from {offsets.min()} to {offsets.max()}")
        return OffsetMap(cv2.transpose(codes) if turned and codes.size else codes.T if turned else codes)

    def __post_init__(self) -> None:
        if self.codes.dtype != np.uint8 or self.codes.ndim != 2:
            raise DataError(f"codes are uint8[height, width], these are {self.codes.dtype}{list(self.codes.shape)}")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.codes.shape

    @property
    def offsets(self) -> np.ndarray:
        """(dh, dw) of each pixel, ``int8[H, W, 2]``."""
        # Both bytes of a vector at once: several times faster than looking up rows of two.
        return np.take(_VECTORS.view(np.int16)[:, 0], self.codes).view(np.int8).reshape(*self.shape, 2)

    @property
    def confidence(self) -> np.ndarray:
        """``uint8[H, W]``, direction confidence times 255; 0 without an offset."""
        return np.take(_CONFIDENCES, self.codes)

    def steps(self, min_confidence: float) -> np.ndarray:
        """(dh, dw) of each code, ``int64[256, 2]``; zero where its confidence is lower."""
        level = np.zeros(256)
        level[1:_NUM_CODES] = np.tile(np.arange(LEVELS), NUM_DIRECTIONS)
        return _VECTORS * (level >= min_confidence * (LEVELS - 1) - 1e-9)[:, None].astype(np.int64)


def confidence_levels() -> np.ndarray:
    """Level of each confidence ``uint8``: 0..30."""
    return _LEVEL_TABLE


def _planes(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """dh and dw as contiguous arrays, and whether they are transposed, which spares turning large ones."""
    turned = offsets.flags.f_contiguous and not offsets.flags.c_contiguous  # as files of MATLAB hold them
    if turned:
        return offsets[..., 0].T, offsets[..., 1].T, True
    if offsets.dtype == np.int8 and offsets.size:
        down, right = cv2.split(np.ascontiguousarray(offsets))
        return down, right, False
    return np.ascontiguousarray(offsets[..., 0]), np.ascontiguousarray(offsets[..., 1]), False


@compiled
def _pack(down: np.ndarray, right: np.ndarray, levels: np.ndarray, codes: np.ndarray) -> bool:
    """Fills ``codes``, all arrays being flat; False where a value is not -1, 0 or 1. One level holds for all."""
    strange = False
    one_level = levels.size == 1
    for place in range(codes.size):
        dh, dw = down[place], right[place]
        strange |= (dh < -1) | (dh > 1) | (dw < -1) | (dw > 1) | (dh != np.int8(dh)) | (dw != np.int8(dw))
        h, w = np.int8(dh), np.int8(dw)
        direction = (2 + w if h < 0 else 6 - w) if h != 0 else (4 if w > 0 else 0)
        level = levels[0] if one_level else levels[place]
        codes[place] = 1 + 31 * direction + level if (h != 0) | (w != 0) else 0
    return not strange
