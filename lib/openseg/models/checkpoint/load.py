"""Loading networks from checkpoints: settings taken from the file, and checks against the config."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence

import torch
from pydantic import ValidationError
from torch import nn

from openseg.config import Config, Normalization, load_config
from openseg.errors import CheckpointError
from openseg.models.checkpoint.io import Checkpoint, KeyReport, load_weights, match_weights, read_checkpoint
from openseg.models.factory import build_model
from openseg.timm_facts import PREFIX

__all__ = ["compare_classes", "fit_config", "fits", "load_model", "load_network"]

logger = logging.getLogger("openseg")


def load_model(
    config: str | os.PathLike[str], checkpoint: str | os.PathLike[str] | None = None, overrides: Sequence[str] = ()
) -> nn.Module:
    """Load the network of a config, in eval mode on the CPU.

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
    return load_network(settings, checkpoint)[0]


def fits(checkpoint: Checkpoint, config: Config) -> bool:
    """Whether the weights exactly match the config's network; allocates no memory."""
    with torch.device("meta"):
        return match_weights(checkpoint.weights, build_model(config))[1].complete


def fit_config(config: Config, checkpoint: Checkpoint) -> Config:
    """Return the config with the settings that the checkpoint's weights require.

    The auxiliary head's shape, a ResNet's stem and an unset activation are taken from the file. Another activation,
    normalization or dilation than in training would load as well and silently cost accuracy, so it is an error.

    Raises:
        CheckpointError: the config has another backbone, activation, normalization or dilation; the message holds
            the override that fixes it.
    """
    converted, model = checkpoint.converted, config.model
    settings = dict(converted.settings)
    usual = 32 if model.backbone.startswith(PREFIX) else 8
    for key, said, trained in (
        ("head_activation", model.head_activation, settings.get("head_activation")),
        ("output_stride", model.output_stride or usual, settings.get("output_stride", model.output_stride) or usual),
        ("multi_grid", _dilated(model.multi_grid), _dilated(settings.get("multi_grid", model.multi_grid))),
    ):
        if said is not None and trained is not None and said != trained:
            raise CheckpointError(
                f"{checkpoint.path}: was trained with model.{key}={trained}, the config says {said}; "
                f"set model.{key}={trained}"
            )
    if converted.normalization is not None:
        try:
            wanted = Normalization.model_validate(converted.normalization)
        except ValidationError:
            raise CheckpointError(f"{checkpoint.path}: its normalization is of another version") from None
        if wanted != config.normalization:
            fields = wanted.model_dump(mode="json")
            text = ", ".join(f"{key}: {value}" for key, value in fields.items())
            raise CheckpointError(
                f'{checkpoint.path}: was trained with another normalization; set "normalization={{{text}}}"'
            )
    backbone = settings.get("backbone")
    if backbone and _family(backbone) != _family(model.backbone):
        raise CheckpointError(
            f"{checkpoint.path}: does not fit this network: its backbone is {backbone}, the config's is "
            f"{model.backbone}"
        )
    settings.pop("output_stride", None)
    settings.pop("multi_grid", None)
    changed = {key: value for key, value in settings.items() if getattr(model, key) not in (None, value)}
    if changed:
        text = ", ".join(f"model.{key}={value}" for key, value in changed.items())
        logger.info("%s: its network has %s", checkpoint.path, text)
    return config.model_copy(update={"model": model.model_copy(update=settings)})


def _dilated(multi_grid: Sequence[int] | None) -> list[int]:
    """Return dilation factors; none is equivalent to all 1."""
    return [] if multi_grid is None or set(multi_grid) == {1} else list(multi_grid)


def _family(backbone: str) -> str:
    """A ResNet's name without its stem, a timm model's without the tag of its weights, and one name of HRNeXt."""
    if backbone.startswith(PREFIX):
        return backbone.partition(".")[0]
    return backbone.removesuffix("_v1b").removesuffix("_v1c").replace("hrnet2x", "hrnext")


def load_network(config: Config, path: str | os.PathLike[str]) -> tuple[nn.Module, KeyReport]:
    """Build the network of a config with the weights of a checkpoint, in eval mode on the CPU.

    The file is read first, since it determines unset settings, see ``fit_config``.

    Raises:
        CheckpointError: the file is damaged, belongs to another network, or contradicts the config.
    """
    checkpoint = read_checkpoint(path)
    compare_classes(config, checkpoint)
    model = build_model(fit_config(config, checkpoint)).eval()
    return model, load_weights(model, checkpoint)


def compare_classes(config: Config, checkpoint: Checkpoint) -> None:
    """Raise CheckpointError for the checkpoint's classes in another order; log other names."""
    trained = checkpoint.content.get("dataset", {}).get("classes")
    classes = list(config.dataset_info.classes)
    if not config.predicts_labels or trained is None or trained == classes:
        return
    first = next((i for i, (a, b) in enumerate(zip(trained, classes, strict=False)) if a != b), 0)
    if sorted(trained) == sorted(classes):
        raise CheckpointError(
            f"{checkpoint.path}: was trained with the classes of {config.dataset_info.name} in another order (class "
            f"{first} was {trained[first]}, now it is {classes[first]}); use the dataset's file as it was"
        )
    if len(trained) == len(classes):
        logger.warning(
            "%s: class %d was called %s in training, now it is %s",
            checkpoint.path,
            first,
            trained[first],
            classes[first],
        )
