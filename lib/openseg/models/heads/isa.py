"""ISA: interlaced sparse self-attention (Huang et al., arXiv 1907.12273; also in OCNet, IJCV 2021).

Dense attention is factorised: first among the pixels at the same place of all 8x8 cells (long range), then among the
pixels of each cell (short range).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.config import ModelConfig
from openseg.models.heads.attention import attend, aux_classifier, init_head, project_twice
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


class ISAHead(nn.Module):
    """Interlaced sparse self-attention on one feature map; inputs and outputs are those of ``FCNHead``.

    Maps that are no multiple of the cell are padded with zeros on all sides; the padding takes part in the attention.
    ``exporting`` pads in another way, slower to train: an exporter takes a padding that may be empty for two cases.
    """

    exporting = False

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        channels, act = config.head_channels, config.activation
        self.aux = aux_classifier(in_channels[0], num_classes, config, bias=False)
        self.pixels = nn.Sequential(*conv_bn_act(in_channels[1], channels, 3, act, bias=False))
        self.long_range = GroupedAttention(channels, config.key_channels, act, long_range=True)
        self.short_range = GroupedAttention(channels, config.key_channels, act, long_range=False)
        self.fuse = nn.Sequential(
            *conv_bn_act(2 * channels, channels, 1, act, bias=False), nn.Dropout2d(config.dropout)
        )
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def forward(self, aux_features: Tensor, features: Tensor, aux: bool = True) -> tuple[Tensor, Tensor | None]:
        pixels = self.pixels(features)
        height, width = pixels.shape[-2:]
        down, across = ((length + CELL - 1) // CELL * CELL - length for length in (height, width))
        top, left = down // 2, across // 2
        if self.exporting:
            padded = _part(_part(pixels, 2, -top, height + down), 3, -left, width + across)
            context = _part(_part(self.short_range(self.long_range(padded)), 2, top, height), 3, left, width)
        else:
            padded = F.pad(pixels, (left, across - left, top, down - top))
            context = self.short_range(self.long_range(padded))[..., top : top + height, left : left + width]
        joined = torch.cat([pixels, context], dim=1)
        return self.classifier(self.fuse(joined)), self.aux(aux_features) if aux else None
