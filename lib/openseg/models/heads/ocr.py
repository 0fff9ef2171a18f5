"""OCR: object-contextual representations (Yuan, Chen, Wang: "Object-Contextual Representations", ECCV 2020).

A coarse segmentation says which pixels make up each class; their weighted mean is the class's representation;
every pixel then attends to the classes' representations and is classified with that context.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.heads.attention import ContextHead, project_twice
from openseg.models.layers import conv_bn_act

__all__ = ["ASPOCRHead", "OCRHead", "ObjectAttention", "gather_objects"]


def gather_objects(features: Tensor, logits: Tensor) -> Tensor:
    """Weighted means of ``features[B, C, h, w]``, the weights being the softmax of ``logits[B, K, h, w]`` over space.

    Returns ``[B, C, K, 1]``.
    """
    weights = logits.flatten(2).softmax(dim=2)
    return (features.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


class ObjectAttention(nn.Module):
    """Each pixel attends to K object vectors; returns the context ``[B, C, h, w]``."""

    def __init__(self, channels: int, key_channels: int, act: str) -> None:
        super().__init__()
        self.query = project_twice(channels, key_channels, act)
        self.key = project_twice(channels, key_channels, act)
        self.value = nn.Sequential(*conv_bn_act(channels, key_channels, 1, act))
        self.out = nn.Sequential(*conv_bn_act(key_channels, channels, 1, act))

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        query = self.query(pixels)
        rows = [x.flatten(2).transpose(1, 2) for x in (query, self.key(objects), self.value(objects))]
        context = F.scaled_dot_product_attention(*rows)
        return self.out(context.transpose(1, 2).reshape(query.shape))


class OCRHead(ContextHead):
    """OCR on one feature map, with the coarse segmentation made from another or the same one.

    The auxiliary logits are the coarse segmentation, so they are always computed.
    """

    def _build(self, in_channels: int) -> None:
        self.pixels = nn.Sequential(*self._conv(in_channels, 3))
        self.attention = ObjectAttention(self.head_channels, self.key_channels, self.activation)
        self.bottleneck = self._project(2 * self.head_channels)

    def forward(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor]:
        aux_map, main_map = self.inputs(features)
        aux_logits, pixels = self.aux(aux_map), self.pixels(main_map)
        context = self.attention(pixels, gather_objects(pixels, aux_logits))
        return self.classifier(self.bottleneck(torch.cat([context, pixels], dim=1))), aux_logits


class ASPOCRHead(OCRHead):
    """OCR as one branch of an atrous spatial pyramid, beside a 1x1 and dilated 3x3 convolutions."""

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        head_channels: int = 256,
        key_channels: int = 128,
        dropout: float = 0.1,
        aux_channels: int | None = None,
        aux_dropout: float = 0.1,
        aux_kernel: int = 3,
        activation: str = "relu",
        classifier_bias: bool = True,
        dilations: Sequence[int] = (12, 24, 36),
    ) -> None:
        """
        Args:
            dilations: of the 3x3 convolutions; the others are ``ContextHead``'s.
        """
        self.dilations = tuple(dilations)
        sizes = head_channels, key_channels, dropout, aux_channels, aux_dropout, aux_kernel
        super().__init__(channels, strides, num_classes, *sizes, activation, classifier_bias)

    def _build(self, in_channels: int) -> None:
        self.pixels = nn.Sequential(*self._conv(in_channels, 3))
        self.attention = ObjectAttention(self.head_channels, self.key_channels, self.activation)
        branches = [self._conv(in_channels, 1), *(self._conv(in_channels, 3, rate) for rate in self.dilations)]
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)
        self.bottleneck = self._project(self.head_channels * (1 + len(branches)))

    def forward(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor]:
        aux_map, main_map = self.inputs(features)
        aux_logits, pixels = self.aux(aux_map), self.pixels(main_map)
        context = self.attention(pixels, gather_objects(pixels, aux_logits))
        pyramid = torch.cat([context, *[branch(main_map) for branch in self.branches]], dim=1)
        return self.classifier(self.bottleneck(pyramid)), aux_logits
