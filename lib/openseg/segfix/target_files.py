"""Files of SegFix ground truth."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from openseg.errors import DataError
from openseg.io.files import atomic_write
from openseg.io.images import write_label
from openseg.io.mat import read_mat
from openseg.io.png import decode_gray_png, is_marked
from openseg.segfix.directions import NUM_DIRECTIONS, codes_to_directions, directions_to_codes
from openseg.segfix.targets import DEGREES_PER_CODE, NO_ANGLE, Targets

__all__ = ["TARGET_SUFFIXES", "read_targets", "write_targets"]

TARGET_SUFFIXES = (".png", ".mat")
_MARK = ("openseg", "segfix targets 1")
_DEPTHS = 31
"""Depths that a PNG tells apart: 0..29, and 30 for all from 30 on."""


def write_targets(path: str | os.PathLike, targets: Targets) -> None:
    """Write targets in the format of the suffix, atomically.

    ``.png``: 8-bit gray, ``31 * direction + min(depth, 30)``, and a text entry that says so; what training needs.
    ``.mat``: the original's layout, ``depth``, ``dir_deg`` and ``deg_reduce``.
    """
    path = Path(path)
    if path.suffix == ".mat":
        from scipy.io import savemat  # takes longer to import than the rest of openseg.segfix

        values = {"depth": targets.depth, "dir_deg": targets.angle_code, "deg_reduce": DEGREES_PER_CODE}
        with atomic_write(path, durable=False) as temporary:
            savemat(temporary, values, do_compression=True)
        return
    packed = codes_to_directions(targets.angle_code) * np.uint8(_DEPTHS) + np.minimum(targets.depth, _DEPTHS - 1)
    write_label(path, packed, text=_MARK)


_PACKED = np.arange(NUM_DIRECTIONS * _DEPTHS)
_DEPTH_TABLE = np.zeros(256, np.uint8)
_DEPTH_TABLE[: _PACKED.size] = _PACKED % _DEPTHS
_CODE_TABLE = np.full(256, NO_ANGLE, np.uint8)
_CODE_TABLE[: _PACKED.size] = directions_to_codes(_PACKED // _DEPTHS)


def _from_mat(content: dict[str, np.ndarray]) -> Targets:
    depth, code = content["depth"], content["dir_deg"]
    if depth.dtype != np.uint8 or code.dtype != np.uint8 or depth.ndim != 2 or depth.shape != code.shape:
        raise ValueError(f"depth is {depth.dtype}{depth.shape}, dir_deg {code.dtype}{code.shape}")
    step = int(np.squeeze(content.get("deg_reduce", DEGREES_PER_CODE)))
    if step != DEGREES_PER_CODE or code.max(initial=0) > 360 // DEGREES_PER_CODE:
        raise ValueError(f"codes of {step} degrees up to {code.max(initial=0)}")
    return Targets(depth, code)


def read_targets(path: str | os.PathLike, max_distance: int = 0) -> Targets:
    """Read targets that ``write_targets`` or the original wrote.

    PNG files store depths up to 29 pixels exactly, and the 8 directions as angles.

    Raises:
        DataError: missing or damaged, not SegFix ground truth, or too coarse for a boundary of ``max_distance`` pixels.
    """
    path = Path(path)
    try:
        if path.suffix == ".mat":
            return _from_mat(read_mat(path.read_bytes(), ("depth", "dir_deg", "deg_reduce")))
        content = path.read_bytes()
        if not is_marked(content, _MARK):
            raise ValueError("a PNG of something else")
        packed = decode_gray_png(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no SegFix ground truth; make it with dt_offset_generator.py") from None
    except Exception as error:  # the parsers raise whatever they meet in a damaged file
        raise DataError(f"{path}: not SegFix ground truth, or damaged ({error}); make it again") from None
    if max_distance >= _DEPTHS - 1:
        raise DataError(
            f"{path}: a PNG knows distances up to {_DEPTHS - 2}; for segfix.max_distance={max_distance} "
            "make it with --format mat"
        )
    return Targets(cv2.LUT(packed, _DEPTH_TABLE), cv2.LUT(packed, _CODE_TABLE))
