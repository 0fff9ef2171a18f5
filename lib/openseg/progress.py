"""Progress bars: on a terminal only, gone when done."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm import tqdm

__all__ = ["progress"]


def progress(items: Iterable, total: int, what: str) -> Iterable:
    """``items`` under a progress bar on a terminal, as they are in a pipe."""
    return tqdm(items, total=total, desc=what, disable=None, leave=False, dynamic_ncols=True)
