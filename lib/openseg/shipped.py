"""Files that come with openseg: configs, and the weights of small networks beside them."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["shipped_configs", "shipped_file"]


def shipped_configs() -> Path:
    """Return the shipped folder ``configs``: beside ``lib`` in a checkout, otherwise inside the package."""
    package = Path(__file__).resolve().parent
    checkout = package.parents[1] / "configs"
    return checkout if checkout.is_dir() else package / "configs"


def shipped_file(path: str | os.PathLike[str]) -> Path:
    """Return ``path``, or the shipped file if ``configs/...`` does not exist here."""
    path = Path(path)
    if path.exists() or path.parts[:1] != ("configs",):
        return path
    shipped = shipped_configs().parent / path
    return shipped if shipped.exists() else path
