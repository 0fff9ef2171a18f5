"""Configs and checkpoints as arguments of keyword functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openseg.config import Config, load_config
from openseg.errors import CheckpointError, ConfigError
from openseg.io.exported import is_exported
from openseg.shipped import shipped_file
from openseg.tools.paths import PathLike
from openseg.training.checkpoints import find_checkpoint

__all__ = ["as_config", "checkpoint_of"]


def as_config(config: PathLike | Config, overrides: Sequence[str] = ()) -> Config:
    """Return a config given as ``Config`` or as YAML file.

    Raises:
        ConfigError: the file is invalid, or a complete config is to be overridden.
    """
    if not isinstance(config, Config):
        return load_config(Path(config), overrides)
    if overrides:
        raise ConfigError("overrides require a config file; this config is already loaded")
    return config


def checkpoint_of(
    config: Config, checkpoint: PathLike | None, checkpoints: PathLike, source: PathLike | Config | None = None
) -> Path:
    """Return the given checkpoint, or the config's latest below the folder ``checkpoints``.

    ``source`` is where the config is from: an exported network is its own checkpoint.

    Raises:
        CheckpointError: there is none.
    """
    if checkpoint is None and is_exported(source):
        checkpoint = str(source)
    if checkpoint is None:
        return find_checkpoint(config, Path(checkpoints))
    path = shipped_file(checkpoint)
    if not path.is_file():
        raise CheckpointError(f"{checkpoint}: no such checkpoint")
    return path
