"""Progress bars: on a terminal only, gone when done."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm import tqdm

__all__ = ["progress"]


def progress(items: Iterable, total: int, what: str, hidden: bool = False) -> Iterable:
    """``items`` under a progress bar with the time left on a terminal; as they are in a pipe, or ``hidden``."""
    return tqdm(items, total=total, desc=what, disable=hidden or None, leave=False, dynamic_ncols=True)
