"""``openseg.inspect``: content of configs and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from openseg.config import Config
from openseg.errors import ConfigError, OpensegError
from openseg.io.files import file_hash
from openseg.models.checkpoint.io import Checkpoint, match_weights, read_checkpoint
from openseg.models.checkpoint.load import compare_classes, fit_config
from openseg.tools.common import as_config
from openseg.tools.paths import PathLike

__all__ = ["inspect"]


def inspect(
    config: PathLike | Config | None = None,
    *,
    overrides: Sequence[str] = (),
    checkpoint: PathLike | None = None,
    size: tuple[int, int] = (512, 1024),
) -> dict[str, Any]:
    """Return parameters, FLOPs and memory of a network, and the content of a checkpoint.

    Args:
        config: None is the one that the checkpoint is of.
        overrides: config values to override, as ``key.sub=value``.
        checkpoint: checkpoint to describe.
        size: (height, width) of an image.

    Returns:
        Plain values: ``network``, ``config``, ``costs`` and perhaps ``checkpoint``, with ``fits``.

    Raises:
        ConfigError: nothing to inspect.
        CheckpointError: the file cannot be read, or it does not say which config it is of.
    """
    from openseg.tools.convert import recognize
    from openseg.tools.summary import summarize

    if config is None and checkpoint is None:
        raise ConfigError("nothing to inspect; pass --config, --checkpoint, or both")
    if min(size) < 32:
        raise ConfigError(f"--size {size[0]} {size[1]}: networks take 32 pixels and more")
    found: dict[str, Any] = {}
    if checkpoint is None:
        assert config is not None
        settings = as_config(config, overrides)
    else:
        read = read_checkpoint(checkpoint)
        settings = recognize(read, overrides) if config is None else as_config(config, overrides)
        settings, found["checkpoint"] = _describe(read, settings)
    network = {"name": settings.name, "task": settings.task, "backbone": settings.model.backbone}
    if settings.predicts_labels:
        network["head"] = settings.model.head
    network["dataset"] = f"{settings.dataset_info.name}, {settings.dataset_info.num_classes} classes"
    return {"network": network, "config": settings.dump(), "costs": summarize(settings, size), **found}


def _describe(checkpoint: Checkpoint, config: Config) -> tuple[Config, dict[str, Any]]:
    """The config, fitted to the file if that can be, and what the file holds."""
    import torch

    from openseg.models.factory import build_model

    problem = ""
    try:
        config = fit_config(config, checkpoint)
        compare_classes(config, checkpoint)
    except OpensegError as error:
        problem = str(error)
    with torch.device("meta"):
        model = build_model(config)
    _, report = match_weights(checkpoint.weights, model)
    keys = {name: getattr(report, name) for name in ("renamed", "filled", "missing", "unexpected", "shape_mismatch")}
    found = {
        "file": str(checkpoint.path),
        "sha256": file_hash(checkpoint.path),
        "layout": checkpoint.converted.layout,
        "fits": report.complete and not problem,
        "problem": problem,
        "keys": str(report),
        **{name: values for name, values in keys.items() if values},
    }
    return config, found | _metadata(checkpoint)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What one of our own files says beside its weights."""
    content = checkpoint.content
    found: dict[str, Any] = {key: content[key] for key in ("iteration", "validated", "best") if key in content}
    if content.get("scores"):
        found["scores"] = content["scores"]
    return found
