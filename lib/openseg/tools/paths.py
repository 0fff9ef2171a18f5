"""Arguments that many keyword functions share; needs no torch."""

from __future__ import annotations

import os
from pathlib import Path

from openseg.errors import ConfigError, OpensegError

__all__ = ["PathLike", "existing_dir", "worker_count"]

PathLike = str | os.PathLike[str]


def existing_dir(path: PathLike, what: str) -> Path:
    """``path`` if it is a folder.

    Raises:
        OpensegError: it is not; ``what`` says what it should have been.
    """
    path = Path(path)
    if not path.is_dir():
        raise OpensegError(f"{path}: no such folder ({what})")
    return path


def worker_count(workers: int | None) -> int:
    """Processes to use; None is one for each core.

    Raises:
        ConfigError: a negative number.
    """
    if workers is not None and workers < 0:
        raise ConfigError(f"workers {workers}: use a number of processes; 0 works in this one")
    return workers if workers is not None else os.cpu_count() or 1
