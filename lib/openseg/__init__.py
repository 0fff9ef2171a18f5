"""openseg: train, evaluate and sharpen semantic segmentation (OCNet family, HRNet, SegFix)."""

from __future__ import annotations

import os
import typing
from collections.abc import Sequence

if typing.TYPE_CHECKING:
    from torch import nn

    from openseg.engine.predictor import Prediction, Predictor

__all__ = ["Prediction", "Predictor", "load_model"]
__version__ = "0.1.0"


def __getattr__(name: str) -> typing.Any:
    """``Predictor`` and ``Prediction``, which need torch, when they are asked for."""
    if name in ("Prediction", "Predictor"):
        from openseg.engine import predictor

        return getattr(predictor, name)
    raise AttributeError(f"module 'openseg' has no attribute '{name}'")


def load_model(
    config: str | os.PathLike, checkpoint: str | os.PathLike | None = None, overrides: Sequence[str] = ()
) -> nn.Module:
    """The network of an experiment, in eval mode on the CPU.

    Args:
        config: the experiment's YAML file.
        checkpoint: weights of any layout that we know; None leaves them random.
        overrides: ``dotted.key=value``, such as ``model.backbone=hrnet18``.

    Returns:
        ``model(images: float[B, 3, H, W])`` on normalised images gives ``.logits`` and ``.aux_logits``, each
        ``[B, K, h, w]`` at the head's stride; a SegFix network ``.mask_logits`` (2 channels) and ``.direction_logits``
        (8 channels).

    Raises:
        ConfigError: the experiment cannot be read.
        CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the experiment.
    """
    from openseg.config import load_experiment
    from openseg.models import build_model, weights

    experiment = load_experiment(config, overrides)
    if checkpoint is None:
        return build_model(experiment).eval()
    return weights.load_model(experiment, checkpoint)[0]
