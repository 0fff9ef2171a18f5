"""Semantic segmentation networks: a backbone and a head."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from openseg.errors import ConfigError
from openseg.models.base import SegmentorOutput

__all__ = ["Segmentor", "SegmentorOutput"]


class Segmentor(nn.Module):
    """``forward(images: float[B, C, H, W]) -> SegmentorOutput``; any H, W >= 32.

    ``aux=False`` leaves out auxiliary logits that the main ones do not need. A list is taken for the feature maps of
    images.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self._head_takes_aux = "aux" in inspect.signature(head.forward).parameters

    def forward(self, images: Tensor | list[Tensor], aux: bool = True) -> SegmentorOutput:
        features = images if isinstance(images, list) else self.backbone(images)
        result = self.head(features, aux=aux) if self._head_takes_aux else self.head(features)
        if isinstance(result, Tensor):
            raise ConfigError(f"{type(self.head).__name__} gave a tensor; a head gives (logits, aux_logits or None)")
        return SegmentorOutput(*result)
