"""Base-OC: every pixel attends to every other one (Yuan et al.: "OCNet: Object Context for Semantic Segmentation").

``FCNHead`` is the same without the attention: the baseline (Long et al., CVPR 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openseg.config import ModelConfig
from openseg.models.heads.attention import attend, aux_classifier, init_head, project_twice
from openseg.models.layers import conv_bn_act

__all__ = ["BaseOCHead", "FCNHead"]


class SelfAttention(nn.Module):
    """Dense attention among the pixels of ``[B, C, h, w]``; memory grows with their number, not with its square."""

    def __init__(self, channels: int, key_channels: int, act: str) -> None:
        super().__init__()
        self.query = project_twice(channels, key_channels, act)
        self.key = project_twice(channels, key_channels, act)
        self.value = nn.Conv2d(channels, key_channels, 1)
        self.out = nn.Conv2d(key_channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        rows = [y.flatten(2).transpose(1, 2) for y in (query, self.key(x), self.value(x))]
        return self.out(attend(*rows).transpose(1, 2).reshape(query.shape))


class FCNHead(nn.Module):
    """A 3x3 convolution and a classifier.

    ``forward(aux_features: float[B, A, h, w], features: float[B, C, h, w])`` gives ``(logits, aux_logits)``, both
    ``[B, K, h, w]``; the auxiliary logits only serve training and are None unless ``aux``.
    """

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        channels, act = config.head_channels, config.activation
        self.aux = aux_classifier(in_channels[0], num_classes, config)
        self.pixels = nn.Sequential(*conv_bn_act(in_channels[1], channels, 3, act), nn.Dropout2d(config.dropout))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def forward(self, aux_features: Tensor, features: Tensor, aux: bool = True) -> tuple[Tensor, Tensor | None]:
        return self.classifier(self.pixels(features)), self.aux(aux_features) if aux else None


class BaseOCHead(nn.Module):
    """Dense self-attention beside the features that it was made from; inputs and outputs are those of ``FCNHead``."""

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        channels, act = config.head_channels, config.activation
        self.aux = aux_classifier(in_channels[0], num_classes, config)
        self.pixels = nn.Sequential(*conv_bn_act(in_channels[1], channels, 3, act))
        self.attention = SelfAttention(channels, config.key_channels, act)
        self.fuse = nn.Sequential(*conv_bn_act(2 * channels, channels, 1, act), nn.Dropout2d(config.dropout))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_head(self)
        nn.init.zeros_(self.attention.out.weight)  # training starts without context

    def forward(self, aux_features: Tensor, features: Tensor, aux: bool = True) -> tuple[Tensor, Tensor | None]:
        pixels = self.pixels(features)
        joined = torch.cat([self.attention(pixels), pixels], dim=1)
        return self.classifier(self.fuse(joined)), self.aux(aux_features) if aux else None
