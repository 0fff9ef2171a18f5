"""OCR: object-contextual representations (Yuan, Chen, Wang: "Object-Contextual Representations", ECCV 2020).

A coarse segmentation says which pixels make up each class; their weighted mean is the class's representation;
every pixel then attends to the classes' representations and is classified with that context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.config import ModelConfig
from openseg.models.heads.attention import aux_classifier, init_head, project_twice
from openseg.models.layers import conv_bn_act

__all__ = ["ASPOCRHead", "OCRHead", "ObjectAttention", "gather_objects"]

_RATES = (12, 24, 36)


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


class _ObjectContext(nn.Module):
    """What both heads begin with: the coarse segmentation, the pixels' features, and their context."""

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__()
        channels, act = config.head_channels, config.activation
        self.aux = aux_classifier(in_channels[0], num_classes, config)
        self.pixels = nn.Sequential(*conv_bn_act(in_channels[1], channels, 3, act))
        self.attention = ObjectAttention(channels, config.key_channels, act)

    def _classify_by(self, width: int, num_classes: int, config: ModelConfig) -> None:
        """The end of both: ``width`` channels are fused and classified."""
        channels = config.head_channels
        fuse = conv_bn_act(width, channels, 1, config.activation)
        self.fuse = nn.Sequential(*fuse, nn.Dropout2d(config.dropout))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_head(self)

    def _contexts(self, aux_features: Tensor, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        aux_logits = self.aux(aux_features)
        pixels = self.pixels(features)
        return aux_logits, pixels, self.attention(pixels, gather_objects(pixels, aux_logits))


class OCRHead(_ObjectContext):
    """OCR on one feature map, with the coarse segmentation made from another or the same one.

    ``forward(aux_features: float[B, A, h, w], features: float[B, C, h, w])`` gives ``(logits, aux_logits)``, both
    ``[B, K, h, w]``. The auxiliary logits are the coarse segmentation, so they are always computed.
    """

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__(in_channels, num_classes, config)
        self._classify_by(2 * config.head_channels, num_classes, config)

    def forward(self, aux_features: Tensor, features: Tensor, aux: bool = True) -> tuple[Tensor, Tensor]:
        aux_logits, pixels, context = self._contexts(aux_features, features)
        return self.classifier(self.fuse(torch.cat([context, pixels], dim=1))), aux_logits


class ASPOCRHead(_ObjectContext):
    """OCR as one branch of an atrous spatial pyramid, beside a 1x1 and three dilated 3x3 convolutions.

    Inputs and outputs are those of ``OCRHead``.
    """

    def __init__(self, in_channels: tuple[int, int], num_classes: int, config: ModelConfig) -> None:
        super().__init__(in_channels, num_classes, config)
        channels, act = config.head_channels, config.activation
        branches = [conv_bn_act(in_channels[1], channels, 1, act)]
        branches += [conv_bn_act(in_channels[1], channels, 3, act, dilation=rate) for rate in _RATES]
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)
        self._classify_by(channels * (1 + len(branches)), num_classes, config)

    def forward(self, aux_features: Tensor, features: Tensor, aux: bool = True) -> tuple[Tensor, Tensor]:
        aux_logits, _, context = self._contexts(aux_features, features)
        pyramid = torch.cat([context, *[branch(features) for branch in self.branches]], dim=1)
        return self.classifier(self.fuse(pyramid)), aux_logits
