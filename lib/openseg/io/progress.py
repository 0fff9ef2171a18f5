"""Progress bars, on terminals only and removed when done."""

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
    """Context that shows or hides progress bars; without a terminal at standard error they are always hidden."""
    token = _SHOWN.set(_SHOWN.get() and shown)
    try:
        yield
    finally:
        _SHOWN.reset(token)


def progress(items: Iterable[T], total: int, what: str, hidden: bool = False) -> Iterable[T]:
    """Wrap ``items`` in a progress bar with rate and ETA; without a terminal or if ``hidden``, return them as is."""
    disable = True if hidden or not _SHOWN.get() else None
    return tqdm(items, total=total, desc=what, disable=disable, leave=False, dynamic_ncols=True)


def is_hidden() -> bool:
    """Whether ``show_progress`` hides bars."""
    return not _SHOWN.get()
