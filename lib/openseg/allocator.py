"""Memory of freed tensors is kept for the next ones, in programs that compute on a CPU."""

from __future__ import annotations

import contextlib
import ctypes
import sys

__all__ = ["keep_freed_memory"]

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of glibc's mallopt
_NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Tell glibc to keep freed blocks instead of returning large ones to the system at once.

    Each tensor of more than 32 MB would otherwise be made of new pages, and touching them takes longer than many
    operations on it. Other C libraries stay as they are.
    """
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            libc = ctypes.CDLL(None)
            libc.mallopt(_MMAP_MAX, 0)
            libc.mallopt(_TRIM_THRESHOLD, _NEVER)
