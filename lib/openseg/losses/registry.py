"""Losses by name; anybody's own by ``register_loss``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openseg.registry import Registry

__all__ = ["LOSSES", "register_loss"]

LOSSES: Registry[Callable[..., Any]] = Registry("loss", reserved=("ce", "ohem", "dice", "lovasz", "boundary", "segfix"))


def register_loss(name: str, function: Callable[..., Any] | None = None) -> Any:
    """Make ``function(logits, labels, **options)`` the loss ``name``; without ``function`` a decorator.

    It takes logits ``float32[B, K, H, W]`` at the size of the labels ``uint8[B, H, W]`` (train IDs, 255 is ignored) and
    gives a scalar. Its further parameters are its keys in a config. A parameter ``class_weights`` gets the dataset's
    weights ``float32[K]`` where the config asks for them, else None.

    Example::

        @openseg.register_loss("focal")
        def focal(logits, labels, gamma: float = 2.0):
            losses = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")
            return (losses * (1 - (-losses).exp()) ** gamma).mean()

    Raises:
        ConfigError: the name is taken.
    """
    return LOSSES.register(name, function)
