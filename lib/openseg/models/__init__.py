"""Networks: typed builders by name."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import nn

from openseg.config import Experiment, ModelConfig
from openseg.errors import ConfigError, nearest_names
from openseg.models.backbones.hrnet import HRNET_SPECS, HRNEXT_SPECS, HRNet, HRNeXt
from openseg.models.backbones.resnet import RESNET_SPECS, ResNet
from openseg.models.heads.base_oc import BaseOCHead, FCNHead
from openseg.models.heads.isa import ISAHead
from openseg.models.heads.ocr import ASPOCRHead, OCRHead
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

BACKBONES = (*RESNET_SPECS, *HRNET_SPECS, *HRNEXT_SPECS)
HEADS: dict[str, Callable[[tuple[int, int], int, ModelConfig], nn.Module]] = {
    "fcn": FCNHead,
    "base_oc": BaseOCHead,
    "isa": ISAHead,
    "ocr": OCRHead,
    "asp_ocr": ASPOCRHead,
}


def _require_known(name: str, names: Iterable[str], key: str) -> None:
    if name not in names:
        raise ConfigError(f"{key}: unknown name '{name}'; {nearest_names(name, names)}")


def build_backbone(config: ModelConfig) -> nn.Module:
    """A randomly initialised backbone.

    It gives a list of maps, finest first, of ``channels`` channels; its ``head_inputs`` makes what heads read of them,
    of ``head_channels`` channels: a map for the auxiliary and one for the main head.

    Raises:
        ConfigError: unknown name (the message lists the nearest ones), or a setting that the backbone does not have.
    """
    name = config.backbone
    _require_known(name, BACKBONES, "model.backbone")
    if name in RESNET_SPECS:
        spec = RESNET_SPECS[name]
        multi_grid = config.multi_grid or ()
        if multi_grid and len(multi_grid) != spec.blocks[3]:
            raise ConfigError(f"model.multi_grid: {name} has {spec.blocks[3]} blocks in its last stage, give as many")
        return ResNet(spec, config.output_stride or 8, multi_grid)
    if config.output_stride or config.multi_grid:
        raise ConfigError(f"model.output_stride and model.multi_grid are settings of ResNets, {name} has neither")
    return HRNeXt(HRNEXT_SPECS[name]) if name in HRNEXT_SPECS else HRNet(HRNET_SPECS[name])


def build_model(experiment: Experiment) -> nn.Module:
    """The randomly initialised network of an experiment: ``Segmentor`` or ``SegFix``, in training mode.

    Raises:
        ConfigError: unknown backbone or head.
    """
    model = experiment.model
    backbone = build_backbone(model)
    if experiment.task == "segfix":
        return SegFix(backbone, model.activation)
    _require_known(model.head, HEADS, "model.head")
    num_classes = experiment.catalog.num_classes
    return Segmentor(backbone, HEADS[model.head](backbone.head_channels, num_classes, model))
