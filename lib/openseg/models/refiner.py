"""The refiner: for every pixel of a label map, from which pixel nearby it should take its label.

SegFix (Yuan et al., ECCV 2020) predicts from the image alone in which direction the inside of an object lies. The
refiner also sees the labels: which neighbors, in the 8 directions of SegFix at several distances, have the pixel's own
label. Nothing else of the labels is shown, so any label map of any number of classes or objects can be refined.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.heads.inputs import MapSelection
from openseg.models.layers import conv_bn_act, fold_sequences
from openseg.segfix.directions import candidate_steps

__all__ = ["Refiner", "candidate_labels"]

_STAY = 3.0
"""Initial logit of leaving a pixel as it is: most labels are right."""


def candidate_labels(labels: Tensor, radii: Sequence[int]) -> Tensor:
    """The labels ``[B, 1 + 8 R, H, W]`` of each pixel's candidates, itself first; beyond the border, of the border.

    Args:
        labels: integers ``[B, H, W]``.
        radii: distances in pixels of the candidates, R of them.
    """
    height, width = labels.shape[-2:]
    reach = max(radii)
    rows, columns = (
        torch.arange(-reach, length + reach, device=labels.device).clamp(0, length - 1) for length in (height, width)
    )
    padded = labels[:, rows][:, :, columns]
    found = [
        padded[:, reach + down : reach + down + height, reach + right : reach + right + width]
        for down, right in candidate_steps(radii).tolist()
    ]
    return torch.stack(found, dim=1)


class Refiner(nn.Module):
    """``forward(images: float[B, C, H, W], labels: int[B, H, W])`` gives logits ``float[B, 1 + 8 R, H, W]``.

    Channel 0 is to stay, the others to take the label of a candidate, in the order of
    ``openseg.segfix.directions.candidate_steps``.
    """

    def __init__(self, backbone: nn.Module, radii: Sequence[int], act: str) -> None:
        """
        Args:
            backbone: takes images of C + 8 R channels.
            radii: distances in pixels of the candidates.
            act: activation of the head.
        """
        super().__init__()
        self.radii = tuple(radii)
        self.backbone = backbone
        strides: Sequence[int] = backbone.strides  # type: ignore[assignment]
        self.inputs = MapSelection(backbone.channels, strides)  # type: ignore[arg-type]
        self.stride = strides[-1] if self.inputs.dilated else strides[0]
        channels, pixels = self.inputs.main_channels, self.stride**2
        hidden = conv_bn_act(channels, channels, 3, act, bias=False)
        classifier = nn.Conv2d(channels, pixels * len(candidate_steps(radii)), 1)
        with torch.no_grad():
            classifier.weight.mul_(0.1)
            assert classifier.bias is not None
            classifier.bias.zero_()[:pixels] = _STAY
        self.head = _Head(*hidden, classifier)

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """``labels`` None is a map of a single label."""
        height, width = images.shape[-2:]
        if labels is None:
            labels = torch.zeros(len(images), height, width, dtype=torch.uint8, device=images.device)
        same = candidate_labels(labels, self.radii)[:, 1:] == labels[:, None]
        evidence = torch.cat([images, same.to(images.dtype) - 0.5], dim=1)
        _, features = self.inputs(self.backbone(evidence))
        return F.pixel_shuffle(self.head(features), self.stride)[..., :height, :width]


class _Head(nn.Sequential):
    """A 3x3 convolution and a 1x1 classifier."""

    def fuse(self) -> None:
        """Fold the batch norm, for inference."""
        fold_sequences(nn.Sequential(*self.children()))
