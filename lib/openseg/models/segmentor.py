"""Semantic segmentation networks: a backbone and a head."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

__all__ = ["Segmentor", "SegmentorOutput"]


class SegmentorOutput(NamedTuple):
    """Logits ``float[B, K, h, w]`` at the head's stride; resize them with ``resize_logits``."""

    logits: Tensor
    aux_logits: Tensor | None


class Segmentor(nn.Module):
    """``forward(images: float[B, 3, H, W]) -> SegmentorOutput``; any H, W >= 32.

    ``aux=False`` leaves out auxiliary logits that the main ones do not need.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: Tensor, aux: bool = True) -> SegmentorOutput:
        return SegmentorOutput(*self.head(*self.backbone.head_inputs(self.backbone(images)), aux))
