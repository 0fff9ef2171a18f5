"""The light head of SegFormer (Xie et al., "SegFormer: Simple and Efficient Design", NeurIPS 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from openseg.models.layers import activation as make_activation
from openseg.models.layers import resize_logits

__all__ = ["MLPHead"]


class MLPHead(nn.Module):
    """1x1 projections of all maps, resized to the finest one and fused, then norm, activation and classifier.

    SegFormer concatenates resized projections and fuses them by a 1x1 convolution. As nothing in between is nonlinear,
    that is a sum of one projection of each map, which is computed here: the same functions with a fraction of the
    operations. There are no auxiliary logits.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        num_classes: int,
        head_channels: int = 256,
        dropout: float = 0.1,
        activation: str = "relu",
    ) -> None:
        """
        Args:
            channels, strides: of the backbone's feature maps.
            head_channels: channels of the fused map.
            dropout: probability of channel dropout before the classifier.
            activation: ``relu`` or ``leaky_relu``.
        """
        super().__init__()
        self.projections = nn.ModuleList(nn.Conv2d(width, head_channels, 1, bias=False) for width in channels)
        self.norm: nn.Module = nn.BatchNorm2d(head_channels)
        self.activation = make_activation(activation)
        self.dropout = nn.Dropout2d(dropout)
        self.classifier = nn.Conv2d(head_channels, num_classes, 1)

    def forward(self, features: list[Tensor]) -> tuple[Tensor, None]:
        size = features[0].shape[-2:]
        fused = self.projections[0](features[0])
        for x, project in zip(features[1:], [*self.projections][1:], strict=True):
            fused = fused + resize_logits(project(x), size)
        return self.classifier(self.dropout(self.activation(self.norm(fused)))), None

    def fuse(self) -> None:
        """Fold the batch norm into the projections, for inference."""
        norm: Any = self.norm
        scale = norm.weight / (norm.running_var + norm.eps).sqrt()
        first: Any = self.projections[0]
        for project in self.projections:
            project.weight = nn.Parameter(project.weight * scale[:, None, None, None], requires_grad=False)  # type: ignore[operator]
        first.bias = nn.Parameter(norm.bias - norm.running_mean * scale, requires_grad=False)
        self.norm = nn.Identity()
