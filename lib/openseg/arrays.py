"""Argument checks for compiled code, which does no checks of its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from openseg.errors import DataError

__all__ = ["require_count", "require_map"]


def require_map(values: Any, what: str, most: int = 255) -> np.ndarray:
    """Return ``values`` as a ``uint8[H, W]`` map, or ``uint16`` where ``most`` needs it.

    Args:
        what: name of the values in the message.
        most: largest valid value.

    Raises:
        DataError: not a two-dimensional integer array, or a value outside ``0..most``.
    """
    if not isinstance(values, np.ndarray) or values.ndim != 2 or values.dtype.kind not in "iub":
        found = f"{values.dtype}{list(values.shape)}" if isinstance(values, np.ndarray) else type(values).__name__
        raise DataError(f"{what} are integers of height x width, these are {found}")
    dtype = np.dtype(np.uint8 if most <= np.iinfo(np.uint8).max else np.uint16)
    if values.dtype != dtype and values.size and (values.min() < 0 or values.max() > most):
        raise DataError(f"{what} are from 0 to {most}, these are from {values.min()} to {values.max()}")
    return np.ascontiguousarray(values, dtype)


def require_count(value: Any, what: str, most: int) -> int:
    """Return ``value`` as an integer from 0 to ``most``.

    Raises:
        DataError: any other value.
    """
    whole = isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and value == value
    if not whole or not 0 <= value <= most or int(value) != value:
        shown = repr(value) if isinstance(value, (int, float, str, type(None))) else f"of type {type(value).__name__}"
        raise DataError(f"{what} {shown}: use a whole number from 0 to {most}")
    return int(value)
