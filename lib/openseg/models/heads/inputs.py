"""Which feature maps of a backbone the heads of the OCNet family read."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from openseg.models.layers import resize_logits

__all__ = ["MapSelection"]


class MapSelection:
    """``selection(features)`` gives the map that the auxiliary head reads, and the one of the main head.

    Of a dilated backbone, whose last two maps have the same stride, those are these two, as of the family's ResNets.
    Otherwise both heads read all maps, resized to the finest one and concatenated, as of HRNet.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        self.dilated = len(strides) > 1 and strides[-1] == strides[-2]
        joined = sum(channels)
        self.aux_channels, self.main_channels = (channels[-2], channels[-1]) if self.dilated else (joined, joined)

    def __call__(self, features: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        if self.dilated:
            return features[-2], features[-1]
        size = (features[0].shape[-2], features[0].shape[-1])
        joined = torch.cat([features[0], *[resize_logits(x, size) for x in features[1:]]], dim=1)
        return joined, joined
