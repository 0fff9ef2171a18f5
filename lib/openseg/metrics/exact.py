"""Sums of floating point numbers that do not depend on the order: one process and a thousand give the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["ExactSums"]

_BITS = 1074  # the smallest float64 is 2 ** -1074


class ExactSums:
    """An array of sums, each kept as an integer of ``2 ** -1074`` and rounded only when it is read."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.shape = shape
        self._sums = [0] * int(np.prod(shape))

    def add(self, values: np.ndarray) -> None:
        """Add finite numbers ``float64[shape]``."""
        flat = np.asarray(values, np.float64).ravel()
        for place in np.flatnonzero(flat).tolist():
            numerator, denominator = float(flat[place]).as_integer_ratio()
            self._sums[place] += numerator << (_BITS + 1 - denominator.bit_length())

    def merge(self, other: ExactSums) -> None:
        """Add the sums of another one."""
        self._sums = [mine + its for mine, its in zip(self._sums, other._sums, strict=True)]

    @property
    def values(self) -> np.ndarray:
        """``float64[shape]``, each the nearest to the exact sum."""
        return np.array([each / (1 << _BITS) for each in self._sums]).reshape(self.shape)

    def counts(self) -> list[str]:
        """The exact sums as texts, for JSON."""
        return [_text(each) for each in self._sums]

    def add_counts(self, counts: Sequence[str]) -> None:
        """Add sums as ``counts`` gives them."""
        self._sums = [mine + _number(text) for mine, text in zip(self._sums, counts, strict=True)]


def _text(value: int) -> str:
    """``mantissa`` in hexadecimal, then how many bits it is shifted."""
    shift = (value & -value).bit_length() - 1 if value else 0
    return f"{value >> shift:x}<{shift}"


def _number(text: str) -> int:
    mantissa, _, shift = text.partition("<")
    return int(mantissa, 16) << int(shift)
