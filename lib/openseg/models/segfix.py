"""The SegFix network: which pixels lie at a boundary, and in which of 8 directions the object's inside is.

Paper: Yuan, Xie, Chen, Wang: "SegFix: Model-Agnostic Boundary Refinement for Segmentation", ECCV 2020.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from openseg.models.heads.inputs import MapSelection
from openseg.models.layers import conv_bn_act, fold_sequences
from openseg.segfix.directions import NUM_DIRECTIONS

__all__ = ["SegFix", "SegFixOutput"]

HIDDEN_CHANNELS = 256


class SegFixOutput(NamedTuple):
    """``mask_logits: float[B, 2, h, w]`` (inside, boundary) and ``direction_logits: float[B, 8, h, w]``."""

    mask_logits: Tensor
    direction_logits: Tensor


class _Classifier(nn.Sequential):
    """A hidden 1x1 convolution and a 1x1 classifier."""

    def __init__(self, channels: int, outputs: int, act: str) -> None:
        hidden = conv_bn_act(channels, HIDDEN_CHANNELS, 1, act, bias=False)
        super().__init__(*hidden, nn.Conv2d(HIDDEN_CHANNELS, outputs, 1, bias=False))

    def fuse(self) -> None:
        """Fold the batch norm, for inference."""
        plain = nn.Sequential(*self.children())
        fold_sequences(plain)


class SegFix(nn.Module):
    """``forward(images: float[B, 3, H, W]) -> SegFixOutput`` at the backbone's finest stride."""

    def __init__(self, backbone: nn.Module, act: str) -> None:
        super().__init__()
        self.backbone = backbone
        self.inputs = MapSelection(backbone.channels, backbone.strides)  # type: ignore[arg-type]
        channels = self.inputs.main_channels
        self.direction_head = _Classifier(channels, NUM_DIRECTIONS, act)
        self.mask_head = _Classifier(channels, 2, act)

    def forward(self, images: Tensor) -> SegFixOutput:
        _, features = self.inputs(self.backbone(images))
        return SegFixOutput(self.mask_head(features), self.direction_head(features))
