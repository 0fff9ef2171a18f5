"""Loops over pixels as machine code, by numba."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """``numba.njit`` at the first call, since importing numba takes longer than all the rest of what needs it.

    A compiled function cannot call another one that is decorated with this.
    """

    @functools.cache
    def machine_code(kept: bool) -> Callable[..., Any]:
        import numba

        return numba.njit(cache=kept, nogil=True)(function)

    keeps = True

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        nonlocal keeps
        if keeps:
            try:
                return machine_code(True)(*arguments)
            except Exception:  # kept code that is damaged or cannot be written raises anything; compile it again
                keeps = False
        return machine_code(False)(*arguments)

    return call
