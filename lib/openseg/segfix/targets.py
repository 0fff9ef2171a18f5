"""Ground truth of SegFix: for each pixel, how far the boundary of its region is and where the region's inside lies.

Exact to the original's definition: the Euclidean distance to the nearest pixel of another region (the image border is
no boundary), and the angle of its gradient under a 5x5 kernel. Regions are taken one at a time within their own box,
which holds the nearest outside pixel of every inside pixel.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import cv2
import imagecodecs
import numpy as np
from PIL import Image, PngImagePlugin
from scipy.io import loadmat, savemat
from scipy.ndimage import distance_transform_edt, find_objects

from openseg.catalog import IGNORE
from openseg.errors import DataError
from openseg.files import atomic_write
from openseg.segfix.directions import NUM_DIRECTIONS, codes_to_directions, directions_to_codes

__all__ = ["TARGET_SUFFIXES", "Targets", "make_instance_targets", "make_targets", "read_targets", "write_targets"]

MAX_DEPTH = 250
NO_ANGLE = 90
"""Code of 0 degrees, stored where there is no angle."""
DEGREES_PER_CODE = 2
MIN_REGION_PIXELS = 100
_RADIUS = 2


@dataclass(frozen=True)
class Targets:
    """``depth: uint8[H, W]`` in pixels (0..250) and ``angle_code: uint8[H, W]`` (0..180, see ``directions``)."""

    depth: np.ndarray
    angle_code: np.ndarray

    def mask_and_direction(self, labels: np.ndarray, max_distance: int) -> tuple[np.ndarray, np.ndarray]:
        """Boundary mask (0, 1) and direction (0..7), ``uint8[H, W]``; 255 where ``labels`` is ignored."""
        ignored = labels == IGNORE
        mask = np.where(ignored, IGNORE, self.depth <= max_distance).astype(np.uint8)
        direction = np.where(ignored, IGNORE, codes_to_directions(self.angle_code)).astype(np.uint8)
        return mask, direction


def _gradient_kernels() -> tuple[np.ndarray, np.ndarray]:
    offsets = np.arange(-_RADIUS, _RADIUS + 1, dtype=np.float32)
    dy, dx = np.meshgrid(offsets, offsets, indexing="ij")
    squared = dy**2 + dx**2
    squared[_RADIUS, _RADIUS] = 1
    return dy / squared, dx / squared


_KERNEL_Y, _KERNEL_X = _gradient_kernels()


def make_targets(labels: np.ndarray, min_pixels: int = MIN_REGION_PIXELS) -> Targets:
    """Targets of a label map ``uint8[H, W]`` of training ids; ``IGNORE`` pixels and regions of fewer than
    ``min_pixels`` pixels get depth 0 and code 90, as the original did it.
    """
    return _region_targets(np.where(labels == IGNORE, 0, labels.astype(np.int32) + 1), min_pixels)


def make_instance_targets(instances: np.ndarray, ids: Collection[int]) -> Targets:
    """Targets of an instance map ``uint16[H, W]`` in the layout of Cityscapes.

    Each distinct value is a region, also the smallest: ``id * 1000 + number`` of things, plain ids of stuff; the plain
    ids that are not in ``ids`` (the evaluated classes) are one region together.
    """
    other = (instances < 256) & ~np.isin(instances, list(ids))
    _, regions = np.unique(np.where(other, IGNORE, instances), return_inverse=True)
    return _region_targets(regions.reshape(instances.shape).astype(np.int32) + 1, min_pixels=0)


def _region_targets(regions: np.ndarray, min_pixels: int) -> Targets:
    """Targets of ``regions: int32[H, W]``; 0 is no region."""
    depth = np.zeros(regions.shape, np.uint8)
    code = np.full(regions.shape, NO_ANGLE, np.uint8)
    for value, box in enumerate(find_objects(regions), start=1):
        if box is None:
            continue
        # One pixel more on each side holds the nearest outside pixel, where the image has one.
        rows, columns = (slice(max(s.start - 1, 0), s.stop + 1) for s in box)
        inside = regions[rows, columns] == value
        if np.count_nonzero(inside) < min_pixels:
            continue
        distance = np.full(inside.shape, MAX_DEPTH, np.float64)
        if not inside.all():
            distance = distance_transform_edt(inside)
        region_code = _angle_codes(distance)
        depth[rows, columns][inside] = np.minimum(distance, MAX_DEPTH)[inside].astype(np.uint8)
        code[rows, columns][inside] = region_code[inside]
    return Targets(depth, code)


def _angle_codes(distance: np.ndarray) -> np.ndarray:
    """Angle codes of the gradient of a distance map that is zero outside its region."""
    gy, gx = (
        cv2.filter2D(distance, cv2.CV_64F, kernel, borderType=cv2.BORDER_CONSTANT) for kernel in (_KERNEL_Y, _KERNEL_X)
    )
    degrees = np.degrees(np.arctan2(gy, gx))
    return ((degrees + 180) / DEGREES_PER_CODE).astype(np.uint8)


TARGET_SUFFIXES = (".png", ".mat")
_MARK = ("openseg", "segfix targets 1")
_DEPTHS = 31
"""Depths that a PNG tells apart: 0..29, and 30 for all from 30 on."""


def write_targets(path: str | os.PathLike, targets: Targets) -> None:
    """Write targets in the format that the suffix names, atomically.

    ``.png``: 8-bit grey, ``31 * direction + min(depth, 30)``, and a text entry that says so; what training needs.
    ``.mat``: the original's layout, ``depth``, ``dir_deg`` and ``deg_reduce``.
    """
    path = Path(path)
    with atomic_write(path) as temporary:
        if path.suffix == ".mat":
            values = {"depth": targets.depth, "dir_deg": targets.angle_code, "deg_reduce": DEGREES_PER_CODE}
            savemat(temporary, values, do_compression=True)
            return
        packed = codes_to_directions(targets.angle_code) * np.uint8(_DEPTHS) + np.minimum(targets.depth, _DEPTHS - 1)
        text = PngImagePlugin.PngInfo()
        text.add_text(*_MARK)
        Image.fromarray(packed).save(temporary, pnginfo=text, compress_level=3)


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

    Of a PNG the depths are right up to 29 pixels, and the angles are those of the 8 directions.

    Raises:
        DataError: missing or damaged, not SegFix ground truth, or too coarse for a boundary of ``max_distance`` pixels.
    """
    path = Path(path)
    try:
        if path.suffix == ".mat":
            return _from_mat(loadmat(path))
        content = path.read_bytes()
        if b"\0".join(part.encode() for part in _MARK) not in content[:200]:
            raise ValueError("a PNG of something else")
        packed = imagecodecs.png_decode(content)
    except FileNotFoundError:
        raise DataError(f"{path}: no SegFix ground truth; make it with dt_offset_generator.py") from None
    except Exception as error:  # the parsers raise whatever they meet in a damaged file
        raise DataError(f"{path}: not SegFix ground truth, or damaged ({error}); make it again") from None
    if max_distance >= _DEPTHS - 1:
        raise DataError(
            f"{path}: a PNG knows distances up to {_DEPTHS - 2}; for loss.max_distance={max_distance} "
            "make it with --format mat"
        )
    return Targets(cv2.LUT(packed, _DEPTH_TABLE), cv2.LUT(packed, _CODE_TABLE))
