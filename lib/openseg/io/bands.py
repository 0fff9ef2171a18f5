"""Images of any number of bands: multi-band TIFFs through tifffile, others through Pillow."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import tifffile

from openseg.errors import DataError
from openseg.io.blob import HeldFile, ImageFile, as_file
from openseg.io.images import read_image, read_label
from openseg.io.limits import max_pixels, too_many_pixels

__all__ = ["read_bands"]

_TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AXES = ("YX", "YXS", "SYX", "CYX", "YXC", "IYX", "QYX")


def read_bands(path: ImageFile, count: int) -> np.ndarray:
    """Read an image of ``count`` bands as ``[H, W, count]`` with the values of the file.

    Bands of a TIFF are its samples or its pages. Other files are gray (one band) or RGB (three).

    Raises:
        DataError: missing, damaged, not of ``count`` bands, or with values that are not finite.
    """
    path = as_file(path)
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in _TIFF_STARTS
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    values = _read_tiff(path) if is_tiff else _read_plain(path, count)
    if values.shape[2] != count:
        raise DataError(
            f"{path}: has {values.shape[2]} bands, the dataset's file lists {count}; correct the one or the other"
        )
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError(f"{path}: holds values that are not finite (NaN or infinity); replace them by numbers")
    return values


def _read_plain(path: Path | HeldFile, count: int) -> np.ndarray:
    return read_label(path)[..., None] if count == 1 else read_image(path)


def _read_tiff(path: Path | HeldFile) -> np.ndarray:
    """``[H, W, bands]``."""
    try:
        with warnings.catch_warnings(), tifffile.TiffFile(path.open() if isinstance(path, HeldFile) else path) as file:
            warnings.simplefilter("ignore")
            series = file.series[0]
            axes = series.axes
            if axes not in _AXES:
                raise DataError(f"{path}: a TIFF with axes {axes}; one image of several bands is needed")
            size = [length for axis, length in zip(axes, series.shape, strict=True) if axis in "YX"]
            if size[0] * size[1] > max_pixels():
                raise DataError(f"{path}: {too_many_pixels((size[0], size[1]))}")
            values = series.asarray()
    except DataError:
        raise
    except Exception as error:  # tifffile and its codecs raise whatever they meet in a damaged file
        raise DataError(f"{path}: unreadable or truncated ({error}); copy it again or remove it") from None
    if values.dtype.kind not in "uif":
        raise DataError(f"{path}: pixels of type {values.dtype}; bands hold integers or floating point numbers")
    if axes == "YX":
        return values[..., None]
    return values if axes.startswith("YX") else np.moveaxis(values, 0, -1)
