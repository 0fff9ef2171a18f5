"""openseg: train, evaluate and refine semantic segmentation (OCNet family, HRNet, SegFix)."""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence

if typing.TYPE_CHECKING:
    from torch import nn

    from openseg.inference.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    """``Predictor`` and ``Prediction``, which need torch, when they are asked for."""
    if name in ("Prediction", "Predictor"):
        from openseg.inference import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'openseg' has no attribute '{name}'")


def load_model(
    config: str | os.PathLike, checkpoint: str | os.PathLike | None = None, overrides: Sequence[str] = ()
) -> nn.Module:
    """The network of a config, in eval mode on the CPU.

    Args:
        config: the config's YAML file.
        checkpoint: weights of any layout that we know; None leaves them random.
        overrides: ``dotted.key=value``, such as ``model.backbone=hrnet18``.

    Returns:
        ``model(images: float[B, 3, H, W])`` on normalized images gives ``.logits`` and ``.aux_logits``, each
        ``[B, K, h, w]`` at the head's stride; a SegFix network ``.mask_logits`` (2 channels) and ``.direction_logits``
        (8 channels).

    Raises:
        ConfigError: the config cannot be read.
        CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the config.
    """
    from openseg.config import load_config
    from openseg.models.checkpoint import io as weights
    from openseg.models.factory import build_model

    loaded = load_config(config, overrides)
    if checkpoint is None:
        return build_model(loaded).eval()
    return weights.load_model(loaded, checkpoint)[0]
