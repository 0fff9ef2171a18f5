"""Offset files: what the SegFix network predicts for an image.

Two formats, told apart by their suffix; label ``a.png`` belongs to ``a.png`` or ``a.mat`` of the offset folder.

``.png``  ours: 8-bit grey, 0 = stay, 1..8 = direction label + 1, marked by the text entry ``openseg: offsets 1``
          so that a folder of label maps given by mistake is noticed.
``.mat``  the original's: key ``mat``, integers ``[H, W, 2]`` (dh, dw) in {-1, 0, 1}.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin
from scipy.io import loadmat, savemat

from openseg.errors import DataError
from openseg.files import atomic_write, index_files, list_files
from openseg.segfix.directions import NUM_DIRECTIONS, directions_to_offsets, offsets_to_directions

__all__ = ["OFFSET_SUFFIXES", "index_offsets", "read_offsets", "write_offsets"]

OFFSET_SUFFIXES = (".png", ".mat")
_MARK = ("openseg", "offsets 1")


def write_offsets(path: str | os.PathLike, offsets: np.ndarray) -> None:
    """Write ``offsets`` (``[H, W, 2]`` in {-1, 0, 1}) in the format that the suffix names, atomically.

    Raises:
        DataError: the suffix is neither ``.png`` nor ``.mat``.
    """
    path = Path(path)
    _check_suffix(path)
    with atomic_write(path) as temporary:
        if path.suffix == ".mat":
            savemat(temporary, {"mat": offsets.astype(np.int8)}, do_compression=True)
            return
        codes = offsets_to_directions(offsets) + np.uint8(1)  # 255 (stay) wraps around to 0
        text = PngImagePlugin.PngInfo()
        text.add_text(*_MARK)
        Image.fromarray(codes).save(temporary, pnginfo=text, compress_level=3)


def read_offsets(path: str | os.PathLike) -> np.ndarray:
    """Read an offset file of either format as ``int8[H, W, 2]``.

    Raises:
        DataError: missing, damaged, or not an offset file.
    """
    path = Path(path)
    _check_suffix(path)
    try:
        return _read_mat(path) if path.suffix == ".mat" else _read_png(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such offset file") from None
    except DataError:
        raise
    except Exception as error:  # the parsers raise whatever they meet in a damaged file
        raise DataError(f"{path}: damaged offset file ({error}); predict it again") from None


def _check_suffix(path: Path) -> None:
    if path.suffix not in OFFSET_SUFFIXES:
        raise DataError(f"{path}: an offset file ends in {' or '.join(OFFSET_SUFFIXES)}")


def _read_mat(path: Path) -> np.ndarray:
    content = loadmat(path)
    if "mat" not in content or content["mat"].ndim != 3 or content["mat"].shape[2] != 2:
        raise DataError(f"{path}: not an offset file (no array 'mat' of height x width x 2)")
    offsets = content["mat"]
    if offsets.size and (offsets.min() < -1 or offsets.max() > 1):
        raise DataError(f"{path}: offsets must be -1, 0 or 1, these are from {offsets.min()} to {offsets.max()}")
    return offsets.astype(np.int8)


def _read_png(path: Path) -> np.ndarray:
    image = Image.open(path)
    if image.info.get(_MARK[0]) != _MARK[1]:
        raise DataError(f"{path}: a PNG, but not an offset file of openseg; is this a folder of labels?")
    codes = np.array(image)
    if codes.max(initial=0) > NUM_DIRECTIONS:
        raise DataError(f"{path}: damaged offset file (code {codes.max()})")
    return directions_to_offsets(codes - np.uint8(1))  # 0 (stay) wraps around to 255


def index_offsets(folder: str | os.PathLike) -> dict[str, Path]:
    """The offset files below ``folder`` by ``sample_key``.

    Raises:
        DataError: no folder, no offset file, or two files for one key.
    """
    return index_files(list_files(folder, OFFSET_SUFFIXES))
