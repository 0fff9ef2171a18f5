"""UPerNet (Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.layers import conv_bn_act, fold_sequences, resize_logits

__all__ = ["UPerNetHead"]


class UPerNetHead(nn.Module):
    """A pyramid pooling module on the coarsest map, and a feature pyramid over all of them.

    Each step down adds the resized coarser map to a 1x1 projection of the finer one; the maps of all steps are resized
    to the finest, concatenated and fused. There are no auxiliary logits.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        head_channels: int = 512,
        dropout: float = 0.1,
        activation: str = "relu",
        pool_sizes: Sequence[int] = (1, 2, 3, 6),
    ) -> None:
        """
        Args:
            channels, strides: of the backbone's feature maps.
            head_channels: channels of the pyramid's maps.
            dropout: probability of channel dropout before the classifier.
            activation: ``relu`` or ``leaky_relu``.
            pool_sizes: sides of the grids that the coarsest map is pooled to (Zhao et al., "Pyramid Scene Parsing
                Network", CVPR 2017).
        """
        super().__init__()

        def conv(in_channels: int, kernel: int) -> nn.Sequential:
            return nn.Sequential(*conv_bn_act(in_channels, head_channels, kernel, activation, bias=False))

        self.pool_sizes = tuple(pool_sizes)
        # Without a norm: a single image pooled to one pixel has no variance.
        self.pooled = nn.ModuleList(nn.Conv2d(channels[-1], head_channels, 1) for _ in self.pool_sizes)
        self.context = conv(channels[-1] + head_channels * len(self.pool_sizes), 3)
        self.laterals = nn.ModuleList(conv(width, 1) for width in channels[:-1])
        self.smooth = nn.ModuleList(conv(head_channels, 3) for _ in channels[:-1])
        self.bottleneck = conv(head_channels * len(channels), 3)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, None]:
        coarsest = features[-1]
        pyramid = [coarsest]
        for side, project in zip(self.pool_sizes, self.pooled, strict=True):
            pyramid.append(resize_logits(F.relu(project(_pool(coarsest, side))), coarsest.shape[-2:]))
        maps = [self.context(torch.cat(pyramid, dim=1))]
        for x, lateral in zip(features[-2::-1], [*self.laterals][::-1], strict=True):
            maps.append(lateral(x) + resize_logits(maps[-1], x.shape[-2:]))
        finest = features[0].shape[-2:]
        smoothed = [smooth(x) for smooth, x in zip(self.smooth, maps[:0:-1], strict=True)]
        joined = torch.cat([resize_logits(x, finest) for x in (*smoothed, maps[0])], dim=1)
        return self.classifier(self.dropout(self.bottleneck(joined))), None

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        fold_sequences(self)


def _pool(x: Tensor, side: int) -> Tensor:
    """Means over a grid of ``side`` x ``side`` regions, as matrix products, which exporters take at any size."""
    rows, columns = (_means(length, side, x) for length in x.shape[-2:])
    return rows @ x @ columns.transpose(0, 1)


def _means(length: int, parts: int, like: Tensor) -> Tensor:
    """``float[parts, length]``: row ``i`` averages the ``i``-th of equal regions, as adaptive average pooling."""
    position = torch.arange(length, device=like.device)[None]
    part = torch.arange(parts, device=like.device)[:, None]
    start, end = part * length // parts, ((part + 1) * length + parts - 1) // parts
    inside = ((position >= start) & (position < end)).to(like.dtype)
    return inside / inside.sum(dim=1, keepdim=True)
