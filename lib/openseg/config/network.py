"""The network's section of a config, and the normalization of its input."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from openseg.config.numbers import Positive
from openseg.schema import Section

__all__ = ["ModelConfig", "Normalization"]

_Deviation = Annotated[float, Field(gt=0)]


class Normalization(Section):
    """``(pixel / scale - mean) / std`` on channels in ``order``; part of a checkpoint's exactness.

    The default is what the released HRNet and SegFix files were trained with: the ImageNet statistics of R, G, B
    applied to channels that are in fact B, G, R; for timm backbones it is what timm's weights were trained with.
    """

    order: Literal["bgr", "rgb"] = Field("bgr", description="channel order of mean and std")
    scale: Annotated[float, Field(gt=0)] = Field(255.0, description="divisor of the pixel values")
    mean: tuple[float, float, float] = Field((0.485, 0.456, 0.406), description="mean to subtract, per channel")
    std: tuple[_Deviation, _Deviation, _Deviation] = Field(
        (0.229, 0.224, 0.225), description="standard deviation per channel"
    )


class ModelConfig(Section):
    """The network. The defaults are the released one: OCR on HRNet-W48."""

    backbone: str = Field(
        "hrnet48", description="backbone name, such as hrnet48 or resnet101, or timm:<model> (MODEL_ZOO.md)"
    )
    head: str = Field("ocr", description="head name: fcn, base_oc, isa, ocr, asp_ocr, mlp or upernet")
    output_stride: Literal[8, 16, 32] | None = Field(
        None, description="output stride; null: 8 for a ResNet, 32 for most timm backbones"
    )
    multi_grid: tuple[Positive, ...] | None = Field(
        None, description="dilation factors of the blocks in a ResNet's last stage; null: all 1"
    )
    head_channels: Positive = Field(512, description="number of channels in the head")
    key_channels: Positive = Field(256, description="number of query and key channels in attention")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.05, description="dropout probability in the head")
    aux_channels: Positive | None = Field(None, description="channels of the auxiliary head; null: as its input")
    aux_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="dropout probability of the auxiliary head"
    )
    aux_kernel: Literal[1, 3] = Field(3, description="kernel size of the auxiliary head's first convolution")
    head_activation: Literal["relu", "leaky_relu"] | None = Field(
        None,
        description="head activation; null: as in the checkpoint, relu in new trainings; leaky_relu (slope .01): files "
        "released for PyTorch 0.4",
    )
    pretrained: Literal["auto"] | Path | None = Field(
        None,
        description="ImageNet weights of the backbone: a file; auto: those of timm, from its cache or the Hugging Face "
        "Hub; null: random initialization",
    )
    freeze_backbone: bool = Field(
        False, description="train the head only; features of unaugmented images are computed once (data.cache_gb)"
    )
    drop_path: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        None, description="stochastic depth of a timm backbone: drop probability of its last block; null: 0"
    )
    backbone_options: dict[str, Any] = Field({}, description="further arguments of a custom backbone")
    head_options: dict[str, Any] = Field({}, description="further arguments of a custom head")

    @model_validator(mode="after")
    def _options_are_no_settings(self) -> ModelConfig:
        for name, options in (("backbone_options", self.backbone_options), ("head_options", self.head_options)):
            known = {*self.backbone_settings, *self.head_settings, "in_channels"} & options.keys()
            if known:
                key = min(known)
                fix = "the dataset's bands decide" if key == "in_channels" else f"use model.{key}"
                raise ValueError(f"{name}: '{key}' cannot be set here; {fix}")
        return self

    @property
    def backbone_settings(self) -> dict[str, Any]:
        """Arguments of the backbone; None where it decides itself."""
        return {"output_stride": self.output_stride, "multi_grid": self.multi_grid, "drop_path": self.drop_path}

    @property
    def head_settings(self) -> dict[str, Any]:
        """Arguments of heads that have them."""
        names = ("head_channels", "key_channels", "dropout", "aux_channels", "aux_dropout", "aux_kernel")
        return {name: getattr(self, name) for name in names} | {"activation": self.activation}

    @property
    def activation(self) -> str:
        """The heads' activation, resolved."""
        return self.head_activation or "relu"
