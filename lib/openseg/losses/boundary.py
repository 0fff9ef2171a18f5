"""A loss of boundaries: how far soft boundaries of prediction and labels are from matching."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.losses.region import one_hot
from openseg.losses.registry import LOSSES

__all__ = ["boundary_loss"]


def _boundary(maps: Tensor, width: int) -> Tensor:
    """Where maps ``[B, K, H, W]`` are higher than the lowest value within ``width`` pixels: a soft inner boundary."""
    return maps + F.max_pool2d(-maps, 2 * width + 1, stride=1, padding=width)


def boundary_loss(logits: Tensor, labels: Tensor, width: int = 1, distance: int = 2) -> Tensor:
    """1 - boundary F-score of the whole batch, mean over the classes that its labels hold.

    Bokhovkin, Burnaev: "Boundary Loss for Remote Sensing Imagery Semantic Segmentation", ISNN 2019: boundaries by
    max-pooling, precision within ``distance`` pixels of the labels' boundary, recall within ``distance`` of the
    predicted one. Ignored pixels hold no class in either.

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``.
        width: of a boundary, pixels on each side.
        distance: pixels at which boundaries still match.
    """
    truth, valid = one_hot(labels, logits.shape[1])
    maps = torch.stack([logits.float().softmax(dim=1) * valid, truth.float()])
    predicted, true = (_boundary(each, width) for each in maps)
    size = 2 * distance + 1
    near_predicted, near_true = (F.max_pool2d(each, size, stride=1, padding=distance) for each in (predicted, true))
    axes, tiny = (0, 2, 3), 1e-7
    precision = (predicted * near_true).sum(axes) / (predicted.sum(axes) + tiny)
    recall = (true * near_predicted).sum(axes) / (true.sum(axes) + tiny)
    losses = 1 - 2 * precision * recall / (precision + recall + tiny)
    present = (true.sum(axes) > 0).float()
    return (losses * present).sum() / present.sum().clamp_min(1)


LOSSES["boundary"] = boundary_loss
