"""Standard output and error of any encoding or state."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["make_streams_safe"]


def make_streams_safe() -> None:
    """Escape characters outside a stream's encoding; replace closed streams by ones that discard output."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
