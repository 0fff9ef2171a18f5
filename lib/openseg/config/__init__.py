"""Config schema and loading.

A config is one short YAML file plus ``dotted.key=value`` overrides::

    config = load_config("configs/camvid/hrnet18_ocr.yaml", ["train.max_iters=100"])
"""

from openseg.config.load import load_config
from openseg.config.losses import LossTerm
from openseg.config.sections import (
    AugmentConfig,
    Config,
    DataConfig,
    ModelConfig,
    MultiScale,
    Normalization,
    SegFixConfig,
    SingleScale,
    TestConfig,
    TrainConfig,
)

__all__ = [
    "AugmentConfig",
    "Config",
    "DataConfig",
    "LossTerm",
    "ModelConfig",
    "MultiScale",
    "Normalization",
    "SegFixConfig",
    "SingleScale",
    "TestConfig",
    "TrainConfig",
    "load_config",
]
