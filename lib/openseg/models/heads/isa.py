"""ISA: interlaced sparse self-attention (Huang et al., arXiv 1907.12273; also in OCNet, IJCV 2021).

Dense attention is factorized: first among the pixels at the same place of all 8x8 cells (long range), then among the
pixels of each cell (short range).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.heads.attention import ContextHead, attend, project_twice
from openseg.models.layers import conv_bn_act

__all__ = ["ISAHead"]

CELL = 8


class GroupedAttention(nn.Module):
    """Attention inside groups of pixels of ``[B, C, H, W]``, H and W being multiples of the cell.

    ``long_range``: a group is one place of all cells; otherwise it is one cell. The projections run on the whole map
    before it is grouped: the same values as on the groups, in fewer and larger convolutions.
    """

    def __init__(self, channels: int, key_channels: int, act: str, long_range: bool) -> None:
        super().__init__()
        self.query = project_twice(channels, key_channels, act, bias=False)
        self.key = project_twice(channels, key_channels, act, bias=False)
        self.value = nn.Conv2d(channels, channels, 1, bias=False)
        self.out = nn.Sequential(*conv_bn_act(channels, channels, 1, act, bias=False))
        # Axes of [B, C, cells down, place down, cells across, place across]: batch and group, tokens, channels.
        self.order = (0, 3, 5, 2, 4, 1) if long_range else (0, 2, 4, 3, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        grouped = [
            y.unflatten(3, (-1, CELL)).unflatten(2, (-1, CELL)).permute(self.order)
            for y in (self.query(x), self.key(x), self.value(x))
        ]
        shape = (*grouped[0].shape[:5], channels)
        context = attend(*[y.flatten(3, 4).flatten(0, 2) for y in grouped]).reshape(shape)
        back = [self.order.index(axis) for axis in range(6)]
        return self.out(context.permute(back).flatten(4, 5).flatten(2, 3))


def _part(x: Tensor, axis: int, start: int, length: int) -> Tensor:
    """``length`` entries of an axis from ``start``, zeros where there are none."""
    places = torch.arange(length) + start
    inside = (places >= 0) & (places < x.shape[axis])
    last = torch.scalar_tensor(x.shape[axis] - 1, dtype=torch.int64)
    return x.index_select(axis, places.clamp(min=0).minimum(last)) * inside.view(
        [-1 if a == axis else 1 for a in range(4)]
    )


class ISAHead(ContextHead):
    """Interlaced sparse self-attention on one feature map.

    Maps that are no multiple of the cell are padded with zeros on all sides; the padding takes part in the attention.
    """

    bias = False

    def _build(self, in_channels: int) -> None:
        self.pixels = nn.Sequential(*self._conv(in_channels, 3))
        sizes = self.head_channels, self.key_channels, self.activation
        self.long_range = GroupedAttention(*sizes, long_range=True)
        self.short_range = GroupedAttention(*sizes, long_range=False)
        self.bottleneck = self._project(2 * self.head_channels)

    def _context(self, pixels: Tensor) -> Tensor:
        height, width = pixels.shape[-2:]
        down, across = ((length + CELL - 1) // CELL * CELL - length for length in (height, width))
        top, left = down // 2, across // 2
        if torch.compiler.is_compiling():  # an exporter takes a padding that may be empty for two cases
            padded = _part(_part(pixels, 2, -top, height + down), 3, -left, width + across)
            return _part(_part(self.short_range(self.long_range(padded)), 2, top, height), 3, left, width)
        padded = F.pad(pixels, (left, across - left, top, down - top))
        return self.short_range(self.long_range(padded))[..., top : top + height, left : left + width]

    def forward(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor | None]:
        aux_map, main_map = self.inputs(features)
        pixels = self.pixels(main_map)
        joined = torch.cat([pixels, self._context(pixels)], dim=1)
        return self.classifier(self.bottleneck(joined)), self.aux(aux_map) if aux else None
