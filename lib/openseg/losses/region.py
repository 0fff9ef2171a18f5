"""Losses of whole regions instead of single pixels: Dice and Lovász-softmax."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.labels import IGNORE_INDEX
from openseg.losses.registry import LOSSES

__all__ = ["dice", "lovasz_softmax", "one_hot"]


def one_hot(labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Labels ``[B, H, W]`` as ``[B, K, H, W]``, zero where ignored; and where they count, ``bool[B, 1, H, W]``."""
    valid = (labels != IGNORE_INDEX).unsqueeze(1)
    encoded = F.one_hot(torch.where(valid[:, 0], labels, 0).long(), num_classes).movedim(-1, 1)
    return encoded * valid, valid


def dice(logits: Tensor, labels: Tensor, smooth: float = 1.0, class_weights: Tensor | None = None) -> Tensor:
    """1 - Dice coefficient of the whole batch, mean over the classes that its labels hold.

    Milletari, Navab, Ahmadi: "V-Net", 3DV 2016, without their square in the denominator (the common soft Dice).

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``; ignored pixels count neither in the prediction nor in the labels.
        smooth: is added to numerator and denominator.
        class_weights: ``float[K]`` of the mean, or None for equal ones.
    """
    truth, valid = one_hot(labels, logits.shape[1])
    probability = logits.float().softmax(dim=1) * valid
    axes = (0, 2, 3)
    sizes = truth.sum(axes).float()
    overlap = (probability * truth).sum(axes)
    losses = 1 - (2 * overlap + smooth) / (probability.sum(axes) + sizes + smooth)
    weights = (sizes > 0).float() if class_weights is None else (sizes > 0) * class_weights
    return (losses * weights).sum() / weights.sum().clamp_min(torch.finfo(torch.float32).tiny)


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Lovász-softmax: the Lovász extension of 1 - IoU of the whole batch, mean over the classes that its labels hold.

    Berman, Rannen Triki, Blaschko: "The Lovász-Softmax Loss", CVPR 2018. Ignored pixels are sorted last with an error
    of zero, so that no shape depends on the labels.

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``.
    """
    truth, valid = one_hot(labels, logits.shape[1])
    errors = (truth - logits.float().softmax(dim=1)).abs() * valid
    errors, truth = (each.movedim(1, 0).flatten(1) for each in (errors, truth.float()))
    # Ignored pixels get the key -1, below all errors of others.
    keys = torch.where(valid.movedim(1, 0).flatten(1), errors.detach(), -1.0)
    order = keys.argsort(dim=1, descending=True)
    sorted_errors, sorted_truth = errors.gather(1, order), truth.gather(1, order)
    sizes = truth.sum(dim=1, keepdim=True)
    intersection = sizes - sorted_truth.cumsum(dim=1)
    union = sizes + (1 - sorted_truth).cumsum(dim=1)
    jaccard = 1 - intersection / union
    slopes = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    present = (sizes[:, 0] > 0).float()
    return ((sorted_errors * slopes).sum(dim=1) * present).sum() / present.sum().clamp_min(1)


LOSSES["dice"] = dice
LOSSES["lovasz"] = lovasz_softmax
