"""OCR: object-contextual representations (Yuan, Chen, Wang: "Object-Contextual Representations", ECCV 2020).

A coarse segmentation says which pixels make up each class; their weighted mean is the class's representation;
every pixel then attends to the classes' representations and is classified with that context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.layers import conv_bn_act, init_weights

__all__ = ["OCRHead", "ObjectAttention", "gather_objects"]


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
        self.query = nn.Sequential(
            *conv_bn_act(channels, key_channels, 1, act), *conv_bn_act(key_channels, key_channels, 1, act)
        )
        self.key = nn.Sequential(
            *conv_bn_act(channels, key_channels, 1, act), *conv_bn_act(key_channels, key_channels, 1, act)
        )
        self.value = nn.Sequential(*conv_bn_act(channels, key_channels, 1, act))
        self.out = nn.Sequential(*conv_bn_act(key_channels, channels, 1, act))

    def forward(self, pixels: Tensor, objects: Tensor) -> Tensor:
        query = self.query(pixels)
        rows = [x.flatten(2).transpose(1, 2) for x in (query, self.key(objects), self.value(objects))]
        context = F.scaled_dot_product_attention(*rows)
        return self.out(context.transpose(1, 2).reshape(query.shape))


class OCRHead(nn.Module):
    """OCR on one feature map.

    ``forward(features: float[B, C, h, w])`` gives ``(logits, aux_logits)``, both ``[B, K, h, w]``. The auxiliary
    logits are the coarse segmentation, so evaluation needs them as well.
    """

    def __init__(
        self, in_channels: int, num_classes: int, channels: int, key_channels: int, dropout: float, act: str
    ) -> None:
        super().__init__()
        self.aux = nn.Sequential(*conv_bn_act(in_channels, in_channels, 3, act), nn.Conv2d(in_channels, num_classes, 1))
        self.pixels = nn.Sequential(*conv_bn_act(in_channels, channels, 3, act))
        self.attention = ObjectAttention(channels, key_channels, act)
        self.fuse = nn.Sequential(*conv_bn_act(2 * channels, channels, 1, act), nn.Dropout2d(dropout))
        self.classifier = nn.Conv2d(channels, num_classes, 1)
        init_weights(self)
        for layer in (self.aux[-1], self.classifier):
            nn.init.normal_(layer.weight, std=0.01)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        aux_logits = self.aux(features)
        pixels = self.pixels(features)
        context = self.attention(pixels, gather_objects(pixels, aux_logits))
        return self.classifier(self.fuse(torch.cat([context, pixels], dim=1))), aux_logits
