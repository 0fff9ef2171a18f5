"""Lazy numba compilation of loops over pixels."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

__all__ = ["compiled"]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Apply ``numba.njit`` at the first call, since importing numba takes longer than everything else here.

    A compiled function cannot call another function with this decorator.
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
            except Exception:  # a damaged or unwritable code cache can raise any error; compile without it
                keeps = False
        return machine_code(False)(*arguments)

    return call
