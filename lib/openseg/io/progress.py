"""Progress bars: on a terminal only, gone when done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextvars import ContextVar
from typing import TypeVar

from tqdm import tqdm

__all__ = ["progress", "show_progress"]

T = TypeVar("T")
_SHOWN: ContextVar[bool] = ContextVar("shown", default=True)


@contextlib.contextmanager
def show_progress(shown: bool) -> Iterator[None]:
    """Whether bars are shown, inside the context; not even then unless standard error is a terminal."""
    token = _SHOWN.set(_SHOWN.get() and shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress(items: Iterable[T], total: int, what: str, hidden: bool = False) -> Iterable[T]:
    """``items`` under a progress bar with rate and time left on a terminal; as they are in a pipe, or ``hidden``."""
    disable = True if hidden or not _SHOWN.get() else None
    return tqdm(items, total=total, desc=what, disable=disable, leave=False, dynamic_ncols=True)


def is_hidden() -> bool:
    """Whether ``show_progress`` hides bars."""
    return not _SHOWN.get()
