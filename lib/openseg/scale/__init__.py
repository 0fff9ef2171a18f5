"""Large sources: prediction, refinement and scores of what lies in storage or in shards, by any number of workers.

``openseg.scale.predict``, ``refine``, ``evaluate`` and ``merge``; docs/scale.md has recipes.
"""

from __future__ import annotations

import importlib
import typing

if typing.TYPE_CHECKING:
    from openseg.scale.api import evaluate, merge, predict, refine
    from openseg.scale.run import ScaleResult
    from openseg.scale.settings import Scale

_MODULES = {"Scale": "settings", "ScaleResult": "run"}
_MODULES |= dict.fromkeys(("evaluate", "merge", "predict", "refine"), "api")
__all__ = ["Scale", "ScaleResult", "evaluate", "merge", "predict", "refine"]


def __getattr__(name: str) -> typing.Any:
    """Import a function or class on first access."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"openseg.scale.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'openseg.scale' has no attribute '{name}'")
