"""``openseg.load_model``: the network of a config, with the weights of a checkpoint."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import nn

from openseg.config import load_config
from openseg.models.checkpoint import io
from openseg.models.factory import build_model

__all__ = ["load_model"]


def load_model(
    config: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()
) -> nn.Module:
    """The network of a config, in eval mode on the CPU.

    Args:
        config: the config's YAML file.
        checkpoint: weights of any known layout; None leaves them random.
        overrides: ``dotted.key=value``, such as ``model.backbone=hrnet18``.

    Returns:
        ``model(images: float[B, 3, H, W])`` on normalized images gives ``.logits`` and ``.aux_logits``, each
        ``[B, K, h, w]`` at the head's stride; a SegFix network ``.mask_logits`` (2 channels) and ``.direction_logits``
        (8 channels).

    Raises:
        ConfigError: the config cannot be read.
        CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the config.
    """
    settings = load_config(os.fspath(config), overrides)
    if checkpoint is None:
        return build_model(settings).eval()
    return io.load_model(settings, checkpoint)[0]
