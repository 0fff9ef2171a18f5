"""Semantic segmentation networks: a backbone and a head."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from openseg.models.layers import resize_logits

__all__ = ["Segmentor", "SegmentorOutput", "concatenate_branches"]


class SegmentorOutput(NamedTuple):
    """Logits ``float[B, K, h, w]`` at the head's stride; resize them with ``resize_logits``."""

    logits: Tensor
    aux_logits: Tensor | None


def concatenate_branches(features: list[Tensor]) -> Tensor:
    """Resize all maps to the finest one (bilinear, aligned corners) and concatenate their channels."""
    size = features[0].shape[-2:]
    return torch.cat([features[0], *[resize_logits(x, size) for x in features[1:]]], dim=1)


class Segmentor(nn.Module):
    """``forward(images: float[B, 3, H, W]) -> SegmentorOutput``; any H, W >= 32."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor) -> SegmentorOutput:
        return SegmentorOutput(*self.head(concatenate_branches(self.backbone(images))))
