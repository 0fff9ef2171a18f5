"""Networks from names and plain arguments; users can register backbones and heads."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import nn

from openseg.errors import ConfigError
from openseg.models.backbones.hrnet import HRNET_SPECS, HRNEXT_SPECS, HRNet, HRNeXt
from openseg.models.backbones.resnet import RESNET_SPECS, ResNet
from openseg.models.backbones.timm import TimmBackbone
from openseg.models.backbones.unet import UNet
from openseg.models.base import require_backbone
from openseg.models.heads.base_oc import BaseOCHead, FCNHead
from openseg.models.heads.isa import ISAHead
from openseg.models.heads.mlp import MLPHead
from openseg.models.heads.ocr import ASPOCRHead, OCRHead
from openseg.models.heads.upernet import UPerNetHead
from openseg.models.segmentor import Segmentor
from openseg.registry import Registry, call_builder, parameters_of
from openseg.timm_facts import PREFIX

if TYPE_CHECKING:
    from openseg.config import Config

__all__ = ["BACKBONES", "HEADS", "build_model", "create_backbone", "create_model", "register_backbone", "register_head"]

BACKBONES: Registry[Callable[..., nn.Module]] = Registry("backbone")
HEADS: Registry[Callable[..., nn.Module]] = Registry("head")

for _name, _resnet in RESNET_SPECS.items():
    BACKBONES[_name] = partial(ResNet, _resnet)
for _name, _hrnet in HRNET_SPECS.items():
    BACKBONES[_name] = partial(HRNet, _hrnet)
for _name, _hrnext in HRNEXT_SPECS.items():
    BACKBONES[_name] = partial(HRNeXt, _hrnext)
BACKBONES["unet"] = UNet
HEADS |= {"fcn": FCNHead, "base_oc": BaseOCHead, "isa": ISAHead, "ocr": OCRHead, "asp_ocr": ASPOCRHead}
HEADS |= {"mlp": MLPHead, "upernet": UPerNetHead}


def register_backbone(name: str, builder: Callable[..., nn.Module] | None = None) -> Any:
    """Register ``builder(**options)`` as backbone ``name``; without ``builder``, return a decorator.

    Args:
        name: used in configs and by ``create_model``.
        builder: returns an ``openseg.models.base.Backbone``. A parameter ``in_channels`` receives the number of image
            channels.

    Returns:
        ``builder``, or a decorator of a class or function.

    Raises:
        ConfigError: the name is taken.

    Examples:
        >>> import openseg, torch
        >>> @openseg.register_backbone("one_convolution")
        ... class OneConvolution(torch.nn.Module):
        ...     channels, strides = (16,), (4,)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = torch.nn.Conv2d(3, 16, 7, stride=4, padding=3)
        ...     def forward(self, images):
        ...         return [self.conv(images)]
        >>> model = openseg.create_model("one_convolution", "ocr", num_classes=5)
    """
    return BACKBONES.register(name, builder)


def register_head(name: str, builder: Callable[..., nn.Module] | None = None) -> Any:
    """Register ``builder(channels, strides, num_classes, **options)`` as head ``name``, see ``register_backbone``.

    Args:
        name: used in configs and by ``create_model``.
        builder: returns an ``openseg.models.base.Head``.

    Returns:
        ``builder``, or a decorator of a class or function.

    Raises:
        ConfigError: the name is taken.
    """
    return HEADS.register(name, builder)


def create_backbone(name: str, in_channels: int = 3, options: Mapping[str, Any] | None = None) -> nn.Module:
    """A randomly initialized backbone.

    Raises:
        ConfigError: unknown name or option, a module that is no backbone, or timm is not installed.
    """
    if name.startswith(PREFIX):
        builder: Callable[..., nn.Module] = partial(TimmBackbone, name.removeprefix(PREFIX))
    else:
        builder = BACKBONES.look_up(name, "model.backbone")
    options = dict(options or {})
    if "in_channels" in parameters_of(builder):
        options["in_channels"] = in_channels
    elif in_channels != 3:
        raise ConfigError(f"backbone '{name}' has no parameter in_channels; it takes images of 3 channels only")
    backbone = call_builder(builder, f"backbone '{name}'", **options)
    require_backbone(backbone, name)
    return backbone


def create_model(
    backbone: str | nn.Module = "hrnet48",
    head: str = "ocr",
    num_classes: int = 19,
    *,
    pretrained: str | os.PathLike[str] | None = None,
    in_channels: int = 3,
    backbone_options: Mapping[str, Any] | None = None,
    **head_options: Any,
) -> Segmentor:
    """A semantic segmentation network in training mode on the CPU.

    Args:
        backbone: a registered name, such as hrnet48 or resnet101 (MODEL_ZOO.md), ``timm:`` and the name of a model of
            timm, such as timm:convnext_tiny, or a module that satisfies ``openseg.models.base.Backbone``.
        head: a registered name, such as ocr, mlp or upernet.
        num_classes: channels of the logits.
        pretrained: file of ImageNet weights of the backbone, or ``auto`` for those of timm; None leaves it randomly
            initialized.
        in_channels: channels of the images.
        backbone_options: further arguments of the backbone, such as ``{"output_stride": 16}`` of a ResNet.
        head_options: further arguments of the head, such as ``head_channels=256``.

    Returns:
        ``model(images: float[B, C, H, W])`` gives ``.logits`` and ``.aux_logits``, each ``float[B, K, h, w]`` at the
        head's stride.

    Raises:
        ConfigError: unknown names or options.
        CheckpointError: ``pretrained`` is damaged or of another backbone.

    Examples:
        >>> import openseg, torch
        >>> model = openseg.create_model("hrnet_tiny", "ocr", num_classes=7, head_channels=32, key_channels=16)
        >>> model.eval()(torch.zeros(1, 3, 64, 96)).logits.shape
        torch.Size([1, 7, 16, 24])
    """
    if num_classes < 1:
        raise ConfigError(f"num_classes={num_classes}: at least one class is required")
    name = backbone if isinstance(backbone, str) else type(backbone).__name__
    if isinstance(backbone, str):
        module = create_backbone(backbone, in_channels, backbone_options)
    else:
        if in_channels != 3 or backbone_options:
            raise ConfigError(f"{name}: in_channels and backbone_options are of a backbone by name; this one is built")
        module = backbone
        require_backbone(module, name)
    builder = HEADS.look_up(head, "model.head")
    facts = tuple(module.channels), tuple(module.strides)  # type: ignore[arg-type]
    model = Segmentor(module, call_builder(builder, f"head '{head}'", *facts, num_classes, **head_options))
    if pretrained is not None:
        from openseg.models.checkpoint.io import load_backbone

        load_backbone(module, pretrained)
    return model


def build_model(config: Config) -> nn.Module:
    """The randomly initialized network of a config: ``Segmentor``, ``SegFix`` or ``Refiner``, in training mode.

    Of the settings of ``model``, a backbone or head gets those that it has a parameter for.

    Raises:
        ConfigError: unknown backbone, head or option.
    """
    model = config.model
    options = model.backbone_options | {
        name: value for name, value in model.backbone_settings.items() if value is not None
    }
    channels = config.dataset_info.channels
    if config.needs_coarse:
        from openseg.models.refiner import Refiner
        from openseg.segfix.directions import NUM_DIRECTIONS

        radii = config.refiner.radii
        backbone = create_backbone(model.backbone, channels + NUM_DIRECTIONS * len(radii), options)
        return Refiner(backbone, radii, model.activation)
    if config.needs_targets:
        from openseg.models.segfix import SegFix

        return SegFix(create_backbone(model.backbone, channels, options), model.activation)
    known = parameters_of(HEADS.look_up(model.head, "model.head"))
    head_options = {name: value for name, value in model.head_settings.items() if name in known}
    return create_model(
        model.backbone,
        model.head,
        config.dataset_info.num_classes,
        in_channels=channels,
        backbone_options=options,
        **head_options | model.head_options,
    )
