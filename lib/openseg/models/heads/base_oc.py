"""Base-OC: every pixel attends to every other one (Yuan et al.: "OCNet: Object Context for Semantic Segmentation").

``FCNHead`` is the same without the attention: the baseline (Long et al., CVPR 2015).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openseg.models.heads.attention import ContextHead, attend, project_twice

__all__ = ["BaseOCHead", "FCNHead"]


class SelfAttention(nn.Module):
    """Dense attention among the pixels of ``[B, C, h, w]``; memory grows with their number, not with its square."""

    def __init__(self, channels: int, key_channels: int, act: str) -> None:
        super().__init__()
        self.query = project_twice(channels, key_channels, act)
        self.key = project_twice(channels, key_channels, act)
        self.value = nn.Conv2d(channels, key_channels, 1)
        self.out = nn.Conv2d(key_channels, channels, 1)
        nn.init.zeros_(self.out.weight)  # training starts without context
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x)
        rows = [y.flatten(2).transpose(1, 2) for y in (query, self.key(x), self.value(x))]
        return self.out(attend(*rows).transpose(1, 2).reshape(query.shape))


class FCNHead(ContextHead):
    """A 3x3 convolution and a classifier."""

    def _build(self, in_channels: int) -> None:
        self.pixels = nn.Sequential(*self._conv(in_channels, 3), nn.Dropout2d(self.dropout))

    def forward(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor | None]:
        aux_map, main_map = self.inputs(features)
        return self.classifier(self.pixels(main_map)), self.aux(aux_map) if aux else None


class BaseOCHead(ContextHead):
    """Dense self-attention beside the features that it was made from."""

    def _build(self, in_channels: int) -> None:
        self.pixels = nn.Sequential(*self._conv(in_channels, 3))
        self.attention = SelfAttention(self.head_channels, self.key_channels, self.activation)
        self.bottleneck = self._project(2 * self.head_channels)

    def forward(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor | None]:
        aux_map, main_map = self.inputs(features)
        pixels = self.pixels(main_map)
        joined = torch.cat([self.attention(pixels), pixels], dim=1)
        return self.classifier(self.bottleneck(joined)), self.aux(aux_map) if aux else None
