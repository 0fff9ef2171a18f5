"""Metrics by name; anybody's own by ``register_metric``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from openseg.metrics.base import Metric
from openseg.registry import Registry

__all__ = ["METRICS", "register_metric"]

METRICS: Registry[Callable[..., Metric]] = Registry("metric")


def register_metric(name: str, builder: Callable[..., Metric] | None = None) -> Any:
    """Make ``builder(info)`` the metric ``name``; without ``builder`` a decorator of a class.

    ``info`` is the ``DatasetInfo`` of the labels; what is built satisfies ``openseg.metrics.base.Metric``. It is
    computed wherever ``metrics`` of the config, or ``--metrics``, names it: validation while training, val, evaluate,
    segfix.py and the HTML report.

    Raises:
        ConfigError: the name is taken.
    """
    return METRICS.register(name, builder)
