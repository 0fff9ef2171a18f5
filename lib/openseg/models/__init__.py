"""Networks: typed builders by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from openseg.catalog import get_catalog
from openseg.config import Experiment, ModelConfig
from openseg.errors import ConfigError, nearest_names
from openseg.models.backbones.hrnet import HRNET_SPECS, HRNet
from openseg.models.heads.ocr import OCRHead
from openseg.models.segfix import SegFix, SegFixOutput
from openseg.models.segmentor import Segmentor, SegmentorOutput

__all__ = [
    "BACKBONES",
    "HEADS",
    "SegFix",
    "SegFixOutput",
    "Segmentor",
    "SegmentorOutput",
    "build_backbone",
    "build_model",
]


def _ocr(model: ModelConfig, in_channels: int, num_classes: int) -> nn.Module:
    return OCRHead(
        in_channels, num_classes, model.head_channels, model.key_channels, model.dropout, model.head_activation
    )


BACKBONES: dict[str, Callable[[], nn.Module]] = {
    name: lambda spec=spec: HRNet(spec) for name, spec in HRNET_SPECS.items()
}
HEADS: dict[str, Callable[[ModelConfig, int, int], nn.Module]] = {"ocr": _ocr}


def _look_up(table: dict, name: str, key: str) -> Callable[..., nn.Module]:
    if name not in table:
        raise ConfigError(f"{key}: unknown name '{name}'; {nearest_names(name, table)}")
    return table[name]


def build_backbone(name: str) -> nn.Module:
    """A randomly initialised backbone; it has ``channels``, the channels of each map that it gives.

    Raises:
        ConfigError: unknown name; the message lists the nearest ones.
    """
    return _look_up(BACKBONES, name, "model.backbone")()


def build_model(experiment: Experiment) -> nn.Module:
    """The randomly initialised network of an experiment: ``Segmentor`` or ``SegFix``, in training mode.

    Raises:
        ConfigError: unknown backbone or head.
    """
    model = experiment.model
    backbone = build_backbone(model.backbone)
    if experiment.task == "segfix":
        return SegFix(backbone, model.head_activation)
    num_classes = get_catalog(experiment.data.dataset).num_classes
    head = _look_up(HEADS, model.head, "model.head")(model, sum(backbone.channels), num_classes)
    return Segmentor(backbone, head)
