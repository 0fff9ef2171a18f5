"""Registry of metrics; ``register_metric`` adds one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openseg.metrics.base import Metric
from openseg.registry import Registry

__all__ = ["METRICS", "register_metric"]

METRICS: Registry[Callable[..., Metric]] = Registry("metric")


def register_metric(name: str, builder: Callable[..., Metric] | None = None) -> Any:
    """Register ``builder(info)`` as metric ``name``; without ``builder``, return a class decorator.

    It is computed wherever ``metrics`` of the config or ``--metrics`` names it: validation during training, val,
    evaluate, segfix.py and the HTML report.

    Args:
        name: used in configs and in ``--metrics``.
        builder: takes the ``DatasetInfo`` of the labels and returns an ``openseg.metrics.base.Metric``.

    Returns:
        ``builder``, or a decorator.

    Raises:
        ConfigError: the name is taken.

    Examples:
        >>> import numpy as np, openseg
        >>> @openseg.register_metric("correct_pixels")
        ... class CorrectPixels:
        ...     def __init__(self, info):
        ...         self.count = 0
        ...     def update(self, prediction, target):
        ...         self.count += int(np.sum(prediction == target))
        ...     def merge(self, other):
        ...         self.count += other.count
        ...     def compute(self):
        ...         return {"correct pixels": self.count}
    """
    return METRICS.register(name, builder)
