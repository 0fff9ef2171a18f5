"""Standard output and error, whatever they are."""

from __future__ import annotations

import io
import os
import sys

__all__ = ["make_streams_safe"]


def make_streams_safe() -> None:
    """What a stream's encoding lacks is escaped; a stream that was closed takes everything and shows nothing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
