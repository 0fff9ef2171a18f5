"""openseg: train, evaluate and refine semantic segmentation (OCNet family, HRNet, SegFix).

Every command is also a function here. Modules are imported when a name is first used.
"""

from __future__ import annotations

import importlib
import typing

from openseg.errors import CheckpointError, ConfigError, DataError, OpensegError

if typing.TYPE_CHECKING:
    from openseg.datasets.augmentations import register_transform
    from openseg.inference.offsets import SegFixPredictor
    from openseg.inference.predictor import Prediction, Predictor
    from openseg.inference.refiner import RefinerPredictor
    from openseg.losses.registry import register_loss
    from openseg.metrics.registry import register_metric
    from openseg.models.checkpoint.load import load_model
    from openseg.models.factory import create_model, register_backbone, register_head
    from openseg.serving.run import serve
    from openseg.tools.auto import refine_auto
    from openseg.tools.benchmark import benchmark
    from openseg.tools.check import check, fill_cache
    from openseg.tools.convert import convert
    from openseg.tools.describe import describe_labels
    from openseg.tools.evaluate import evaluate
    from openseg.tools.export import export
    from openseg.tools.inspect import inspect
    from openseg.tools.predict import predict, predict_offsets, test, validate
    from openseg.tools.prepare.targets import make_segfix_targets
    from openseg.tools.refine import refine
    from openseg.tools.refine_instances import refine_instances
    from openseg.tools.report.build import report
    from openseg.tools.train import train
    from openseg.tools.tune import tune
    from openseg.tools.verify import verify

__version__ = "0.1.0"

_MODULES = {
    "Prediction": "inference.predictor",
    "Predictor": "inference.predictor",
    "RefinerPredictor": "inference.refiner",
    "SegFixPredictor": "inference.offsets",
    "benchmark": "tools.benchmark",
    "check": "tools.check",
    "convert": "tools.convert",
    "create_model": "models.factory",
    "describe_labels": "tools.describe",
    "evaluate": "tools.evaluate",
    "export": "tools.export",
    "fill_cache": "tools.check",
    "inspect": "tools.inspect",
    "load_model": "models.checkpoint.load",
    "make_segfix_targets": "tools.prepare.targets",
    "predict": "tools.predict",
    "predict_offsets": "tools.predict",
    "refine": "tools.refine",
    "refine_auto": "tools.auto",
    "refine_instances": "tools.refine_instances",
    "register_backbone": "models.factory",
    "register_head": "models.factory",
    "register_loss": "losses.registry",
    "register_metric": "metrics.registry",
    "register_transform": "datasets.augmentations",
    "report": "tools.report.build",
    "serve": "serving.run",
    "test": "tools.predict",
    "train": "tools.train",
    "tune": "tools.tune",
    "validate": "tools.predict",
    "verify": "tools.verify",
}
__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "OpensegError",
    "Prediction",
    "Predictor",
    "RefinerPredictor",
    "SegFixPredictor",
    "benchmark",
    "check",
    "convert",
    "create_model",
    "describe_labels",
    "evaluate",
    "export",
    "fill_cache",
    "inspect",
    "load_model",
    "make_segfix_targets",
    "predict",
    "predict_offsets",
    "refine",
    "refine_auto",
    "refine_instances",
    "register_backbone",
    "register_head",
    "register_loss",
    "register_metric",
    "register_transform",
    "report",
    "serve",
    "test",
    "train",
    "tune",
    "validate",
    "verify",
]


def __getattr__(name: str) -> typing.Any:
    """Import a function or class of the public API on first access."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"openseg.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'openseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
