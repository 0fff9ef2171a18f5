"""``config.profile``: where the data is, for the programs that stand alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["data_root"]

_SCRIPT = 'source "$1" && printf %s "$DATA_ROOT"'


def data_root() -> Path:
    """``DATA_ROOT`` of ``config.profile`` in the checkout, else ``./data``.

    The file is shell, sourced by the launchers, so the shell reads it here too: the same defaults and the same
    precedence of the environment. A relative root is relative to the file.
    """
    folder = Path(__file__).resolve().parents[3]
    profile = folder / "config.profile"
    if not profile.is_file():
        return Path("data")
    try:
        result = subprocess.run(
            ["bash", "-c", _SCRIPT, "bash", str(profile)], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return folder / "data"
    return folder / (result.stdout or "data")
