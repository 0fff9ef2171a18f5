"""The SegFix network: which pixels lie at a boundary, and in which of 8 directions the object's inside is.

Paper: Yuan, Xie, Chen, Wang: "SegFix: Model-Agnostic Boundary Refinement for Segmentation", ECCV 2020.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from openseg.models.layers import conv_bn_act, init_weights
from openseg.segfix.directions import NUM_DIRECTIONS

__all__ = ["SegFix", "SegFixOutput"]

HIDDEN_CHANNELS = 256


class SegFixOutput(NamedTuple):
    """``mask_logits: float[B, 2, h, w]`` (inside, boundary) and ``direction_logits: float[B, 8, h, w]``."""

    mask_logits: Tensor
    direction_logits: Tensor


class SegFix(nn.Module):
    """``forward(images: float[B, 3, H, W]) -> SegFixOutput`` at the backbone's finest stride."""

    def __init__(self, backbone: nn.Module, act: str) -> None:
        super().__init__()
        self.backbone = backbone
        channels = backbone.head_channels[1]
        self.direction_head = self._head(channels, NUM_DIRECTIONS, act)
        self.mask_head = self._head(channels, 2, act)
        init_weights(self.direction_head)
        init_weights(self.mask_head)

    @staticmethod
    def _head(channels: int, outputs: int, act: str) -> nn.Sequential:
        hidden = conv_bn_act(channels, HIDDEN_CHANNELS, 1, act, bias=False)
        return nn.Sequential(*hidden, nn.Conv2d(HIDDEN_CHANNELS, outputs, 1, bias=False))

    def forward(self, images: Tensor) -> SegFixOutput:
        _, features = self.backbone.head_inputs(self.backbone(images))
        return SegFixOutput(self.mask_head(features), self.direction_head(features))
