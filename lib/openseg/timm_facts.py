"""What configs need to know of the timm library, whose models are named ``timm:<model>``."""

from __future__ import annotations

import importlib.util
from typing import Any

from openseg.errors import ConfigError, nearest_names

__all__ = ["PREFIX", "known_model", "pretrained_normalization"]

PREFIX = "timm:"
"""What names of these backbones begin with."""

_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def known_model(name: str) -> Any:
    """Import timm and return it, if it has the model ``name`` (without ``timm:``).

    Raises:
        ConfigError: it is not installed, or has no such model.
    """
    if importlib.util.find_spec("timm") is None:
        raise ConfigError(f"'{PREFIX}{name}' needs the package timm; pip install 'openseg[timm]'")
    import timm

    if not timm.is_model(name):
        raise ConfigError(f"timm {timm.__version__} has no model '{name}'; {nearest_names(name, timm.list_models())}")
    return timm


def pretrained_normalization(name: str) -> dict[str, Any]:
    """Return the normalization that timm's weights of model ``name`` (without ``timm:``) were trained with.

    Raises:
        ConfigError: no timm, or no such model.
    """
    facts = known_model(name).models.get_pretrained_cfg(name)
    values = _IMAGENET if facts is None else {"mean": facts.mean, "std": facts.std}
    return {"order": "rgb", "scale": 255.0, **{key: list(value) for key, value in values.items()}}
