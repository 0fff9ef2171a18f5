"""Registry of losses; ``register_loss`` adds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openseg.registry import Registry

__all__ = ["LOSSES", "register_loss"]

LOSSES: Registry[Callable[..., Any]] = Registry(
    "loss", reserved=("ce", "ohem", "dice", "lovasz", "boundary", "segfix", "refiner")
)


def register_loss(name: str, function: Callable[..., Any] | None = None) -> Any:
    """Register ``function(logits, labels, **options)`` as loss ``name``; without ``function``, return a decorator.

    Args:
        name: used in configs.
        function: takes logits ``float32[B, K, H, W]`` at the size of the labels ``uint8[B, H, W]`` (train IDs, 255 is
            ignored) and returns a scalar. Further parameters become config keys. A parameter ``class_weights``
            receives the dataset's weights ``float32[K]`` if the config asks for them, else None.

    Returns:
        ``function``, or a decorator.

    Raises:
        ConfigError: the name is taken.

    Examples:
        >>> import openseg, torch
        >>> @openseg.register_loss("focal")
        ... def focal(logits, labels, gamma: float = 2.0):
        ...     losses = torch.nn.functional.cross_entropy(logits, labels.long(), ignore_index=255, reduction="none")
        ...     return (losses * (1 - (-losses).exp()) ** gamma).mean()
        >>> focal(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8))
        tensor(0.1733)
    """
    return LOSSES.register(name, function)
