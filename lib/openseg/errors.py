"""User errors: each message names the problem, the place and the remedy."""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "Interrupted",
    "OpensegError",
    "is_out_of_memory",
    "nearest_names",
    "printable",
]


class OpensegError(Exception):
    """Base class of expected errors; commands print them as one line and exit with code 2."""


class ConfigError(OpensegError):
    """Invalid config file or override."""


class DataError(OpensegError):
    """Missing, damaged or inconsistent image, label, offset or folder."""


class CheckpointError(OpensegError):
    """Missing or damaged checkpoint, or one of another network."""


class Interrupted(OpensegError):
    """Stopped by a signal after the state was saved."""


def printable(text: object, keep: str = "") -> str:
    """Escape control characters (which may be terminal commands) and lone surrogates of ``text``."""
    return "".join(
        each if each in keep or unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") else ascii(each)[1:-1]
        for each in str(text)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is out of memory, on a GPU or in main memory."""
    signs = ("out of memory", "allocate memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def nearest_names(name: str, known: Iterable[str], limit: int = 200) -> str:
    """Suggest the nearest of ``known`` for ``name``, or list the first ``limit`` of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
