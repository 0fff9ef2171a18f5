"""Facts about an exported network, in the metadata of its file: what it takes and gives, its classes, its settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from openseg.errors import CheckpointError, ConfigError

__all__ = ["is_exported", "read_facts"]


def is_exported(path: Any) -> bool:
    """Whether this is the name of an exported network that predicts."""
    return str(path).endswith(".onnx")


def read_facts(path: Path) -> dict[str, Any]:
    """Return the facts that ``export`` wrote into an ``.onnx`` file.

    Raises:
        ConfigError: the package ``onnx`` is missing.
        CheckpointError: there is no such file, it is damaged, or another program wrote it.
    """
    try:
        import onnx
    except ImportError:
        raise ConfigError(f"{path}: ONNX needs the package onnx; pip install 'openseg[export]'") from None
    if not path.is_file():
        raise CheckpointError(f"{path}: no such exported network")
    try:
        metadata = onnx.load(path, load_external_data=False).metadata_props
        facts = {each.key: each.value for each in metadata}
        if "openseg" not in facts:
            raise CheckpointError(f"{path}: not written by openseg's export, so its classes are unknown")
        return {**json.loads(facts["openseg"]), **{"classes": json.loads(facts["classes"])}}
    except CheckpointError:
        raise
    except Exception:  # its parser raises what it likes
        raise CheckpointError(f"{path}: damaged, or no ONNX file; export it again") from None
