"""Errors that a user can act on: each message says what happened, where, and what to do."""

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
    """Base of every expected failure; the commands print it as one line and exit 2."""


class ConfigError(OpensegError):
    """A config file or an override says something that cannot be."""


class DataError(OpensegError):
    """An image, label, offset or folder is missing, damaged or inconsistent."""


class CheckpointError(OpensegError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class Interrupted(OpensegError):
    """Work was stopped by a signal after its state was saved."""


def printable(text: object, keep: str = "") -> str:
    """``text`` for a terminal: control characters, which may be commands to it, and lone surrogates are escaped."""
    return "".join(
        each if each in keep or unicodedata.category(each) not in ("Cc", "Cs", "Zl", "Zp") else ascii(each)[1:-1]
        for each in str(text)
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, on a GPU or in the main memory."""
    signs = ("out of memory", "can't allocate memory", "ALLOC_FAILED", "bad_alloc")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def nearest_names(name: str, known: Iterable[str], limit: int = 200) -> str:
    """Describe which of ``known`` the user may have meant by ``name``, or list the first ``limit`` of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(close) + "?"
    return "known: " + ", ".join(known[:limit]) + (", ..." if len(known) > limit else "")
