"""Refinement: every boundary pixel takes the label at its offset inside the object, by one integer gather.

The original sampled one-hot masks with ``grid_sample``; with the corners aligned that equals the gather below, with
today's default it shifts labels by a fraction of a pixel.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np

from openseg.arrays import require_count
from openseg.compiled import compiled
from openseg.errors import DataError
from openseg.segfix.offsets import LEVELS, OffsetMap, confidence_levels

if TYPE_CHECKING:
    import torch

__all__ = ["refine", "refine_mask", "thin_parts"]

_MOST_PIXELS, _WIDEST = 10_000, 1000
Labels = TypeVar("Labels", np.ndarray, "torch.Tensor")


def refine(
    labels: Labels,
    offsets: OffsetMap | Labels,
    scale: int = 1,
    confidence: Labels | None = None,
    min_confidence: float = 0.0,
    keep_thin: int = 0,
) -> Labels:
    """Replace each label by the one at ``(h + scale * dh, w + scale * dw)``, clamped to the image.

    Args:
        labels: ``[H, W]`` of any dtype and any id space; NumPy, or torch on any device.
        offsets: integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1} of the same kind and device, or an ``OffsetMap``; zero
            leaves the pixel as it is.
        scale: step length in pixels; 2 suits 1024x2048, 1 suits a quarter of that size.
        confidence: ``uint8[H, W]``, direction confidence times 255, used in steps of 1/30; included in an
            ``OffsetMap``.
        min_confidence: minimum direction confidence (0 to 1) of pixels to refine.
        keep_thin: width in pixels; narrower parts of ``labels`` are unchanged, see ``thin_parts``.

    Returns:
        A new array like ``labels``.

    Raises:
        DataError: labels and offsets of different sizes, offsets other than -1, 0 and 1, unsupported arrays, or a
            scale that is not an integer from 0 to 10,000.
    """
    scale, keep_thin = require_count(scale, "scale", _MOST_PIXELS), require_count(keep_thin, "keep_thin", _WIDEST)
    if not isinstance(min_confidence, (int, float, np.number)) or not 0 <= min_confidence <= 1:
        raise DataError(f"min_confidence {min_confidence}: use a number from 0 to 1")
    _require_kinds(labels, offsets)
    if labels.ndim != 2 or tuple(offsets.shape) not in (tuple(labels.shape), (*labels.shape, 2)):
        sizes = list(offsets.shape[:2]), list(labels.shape)
        raise DataError(f"offsets {sizes[0]} and labels {sizes[1]} differ in size; they are of two images")
    if not isinstance(labels, np.ndarray):
        return _refine_tensor(labels, offsets, scale, confidence, min_confidence, keep_thin)
    assert isinstance(labels, np.ndarray)
    if not isinstance(offsets, OffsetMap):
        offsets = OffsetMap.of(offsets, confidence)  # type: ignore[arg-type]
    refined = np.array(labels, order="C")
    bits = f"u{labels.itemsize}"
    codes = np.ascontiguousarray(offsets.codes)
    if keep_thin:
        codes = np.where(thin_parts(labels, keep_thin), np.uint8(0), codes)
    whole = codes.size // 8 * 8
    words = codes.reshape(-1)[:whole].view(np.uint64)
    _gather(
        np.ascontiguousarray(labels).view(bits), codes, words, offsets.steps(min_confidence) * scale, refined.view(bits)
    )
    return refined


def _require_kinds(labels: object, offsets: object) -> None:
    """Raises DataError for labels that are no array of numbers, and offsets that are not of their kind."""
    if isinstance(labels, np.ndarray):
        if labels.dtype.kind not in "iubf" or labels.itemsize not in (1, 2, 4, 8):
            raise DataError(f"labels of {labels.dtype} cannot be refined; use integers")
        good = isinstance(offsets, (np.ndarray, OffsetMap))
    elif "torch" in sys.modules and isinstance(labels, sys.modules["torch"].Tensor):
        good = isinstance(offsets, (sys.modules["torch"].Tensor, OffsetMap))
    else:
        raise DataError(f"labels are a NumPy array or a torch tensor, this is a {type(labels).__name__}")
    if not good:
        raise DataError(f"offsets are an OffsetMap or of the labels' kind, this is a {type(offsets).__name__}")


def thin_parts(labels: np.ndarray, width: int) -> np.ndarray:
    """Return a mask ``bool[H, W]`` of pixels in no ``width`` x ``width`` block of a single label.

    These are the parts of regions narrower than ``width``; parts cut off by the image border count as wide.

    Raises:
        DataError: a width that is not an integer from 0 to 1000.
    """
    width = require_count(width, "keep_thin", _WIDEST)
    if width <= 1 or not labels.size:
        return np.zeros(labels.shape, np.bool_)
    if labels.dtype not in (np.uint8, np.uint16):
        # Numbers of the values, of a type that OpenCV filters.
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.float32)
    # Repeating the border makes blocks that stick out of the map as uniform as what they hold of it.
    margin = width - 1
    padded = cv2.copyMakeBorder(labels, margin, margin, margin, margin, cv2.BORDER_REPLICATE)
    block, first = np.ones((width, width), np.uint8), width // 2
    uniform = cv2.erode(padded, block, anchor=(first, first)) == cv2.dilate(padded, block, anchor=(first, first))
    last = width - 1 - first
    wide = cv2.dilate(uniform.astype(np.uint8), block, anchor=(last, last))
    return wide[margin:-margin, margin:-margin] == 0


def refine_mask(
    mask: np.ndarray, offsets: OffsetMap, scale: int = 1, min_confidence: float = 0.0, keep_thin: int = 0
) -> np.ndarray:
    """Refine one object's mask ``bool[H, W]``; computes only within its bounding box.

    Raises:
        DataError: see ``refine``.
    """
    if offsets.shape != mask.shape:
        raise DataError(f"offsets {list(offsets.shape)} and mask {list(mask.shape)} differ in size")
    refined = np.zeros_like(mask)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size:
        # A pixel that gets the object's label is at most a step away from it, and all around that is nothing.
        box = tuple(slice(max(each[0] - scale, 0), each[-1] + scale + 1) for each in (rows, columns))
        refined[box] = refine(mask[box], OffsetMap(offsets.codes[box]), scale, None, min_confidence, keep_thin)
    return refined


@compiled
def _gather(labels: np.ndarray, codes: np.ndarray, words: np.ndarray, steps: np.ndarray, refined: np.ndarray) -> None:
    height, width = labels.shape
    source, target, flat = labels.reshape(-1), refined.reshape(-1), codes.reshape(-1)
    y, row = 0, 0
    for word in range(words.size + 1):
        if word < words.size and words[word] == 0:  # eight pixels that stay
            continue
        for place in range(8 * word, min(8 * word + 8, flat.size)):
            down, right = steps[flat[place], 0], steps[flat[place], 1]
            if down != 0 or right != 0:
                while place >= row + width:
                    y, row = y + 1, row + width
                to_y = min(max(y + down, 0), height - 1)
                to_x = min(max(place - row + right, 0), width - 1)
                target[place] = source[to_y * width + to_x]


def _refine_tensor(
    labels: torch.Tensor,
    offsets: OffsetMap | torch.Tensor,
    scale: int,
    confidence: torch.Tensor | None,
    min_confidence: float,
    keep_thin: int,
) -> torch.Tensor:
    import torch

    if isinstance(offsets, OffsetMap):
        steps = torch.from_numpy(offsets.steps(min_confidence)).to(labels.device)
        moves = steps[torch.from_numpy(offsets.codes).to(labels.device).long()]
    else:
        moves = offsets.long()
        if confidence is not None:
            table = torch.from_numpy(confidence_levels() >= min_confidence * (LEVELS - 1) - 1e-9)
            moves = moves * table.to(labels.device)[confidence.long()].unsqueeze(-1)
    if moves.numel() and moves.abs().max() > 1:
        raise DataError(f"offsets must be -1, 0 or 1, these are from {int(moves.min())} to {int(moves.max())}")
    if keep_thin:
        still = torch.from_numpy(thin_parts(labels.cpu().numpy(), keep_thin)).to(labels.device)
        moves = moves.masked_fill(still.unsqueeze(-1), 0)
    height, width = labels.shape
    rows = torch.arange(height, device=labels.device)[:, None] + scale * moves[..., 0]
    columns = torch.arange(width, device=labels.device) + scale * moves[..., 1]
    return labels[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
