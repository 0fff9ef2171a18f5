"""Cross-entropy, plain and with online hard example mining."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.labels import IGNORE_INDEX
from openseg.losses.registry import LOSSES

__all__ = ["PixelScope", "SingleProcess", "cross_entropy", "ohem_cross_entropy", "pixel_count"]

_TINY = torch.finfo(torch.float32).tiny
_NEVER = 2.0  # larger than any probability


class PixelScope(Protocol):
    """Processes whose pixels are averaged together."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values."""

    def gather(self, values: Tensor) -> Tensor:
        """The values ``[N]`` of all processes, ``[processes * N]``."""


class SingleProcess:
    """A single process."""

    def mean(self, value: Tensor) -> Tensor:
        return value

    def gather(self, values: Tensor) -> Tensor:
        return values


def pixel_count(labels: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Number of valid pixels in ``labels[B, H, W]``, or the sum of their class weights, ``float[]``."""
    valid = labels != IGNORE_INDEX
    if class_weights is None:
        return valid.sum().float()
    return torch.where(valid, class_weights[torch.where(valid, labels, 0).long()], 0.0).sum()


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    class_weights: Tensor | None = None,
    count: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean cross-entropy over valid pixels (divided by the sum of their class weights).

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``.
        class_weights: ``float[K]`` or None.
        count: divisor of the sum, instead of the ``pixel_count`` of ``labels``.
        label_smoothing: probability that the target gives to all classes equally (Szegedy et al., CVPR 2016).
    """
    losses = F.cross_entropy(
        logits.float(),
        labels.long(),
        class_weights,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return losses / (pixel_count(labels, class_weights) if count is None else count).clamp_min(_TINY)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float = 0.9,
    min_kept: int = 100_000,
    class_weights: Tensor | None = None,
    count_first_pixel: bool = False,
    scope: PixelScope | None = None,
) -> Tensor:
    """Cross-entropy of the hard pixels only (online hard example mining, as in the OC family).

    A pixel is hard when the probability of its true class is strictly below ``max(threshold, p)``, p being the
    ``min_kept``-th smallest such probability; the mean is over the number of hard pixels, also with class weights.
    With ``count_first_pixel``, the batch's first pixel counts as valid even if ignored, with a loss of 0. ``scope``:
    processes whose pixels are compared and counted, by default this one.
    """
    scope = scope or SingleProcess()
    logits = logits.float()
    losses = F.cross_entropy(logits, labels.long(), class_weights, ignore_index=IGNORE_INDEX, reduction="none")
    valid = labels != IGNORE_INDEX
    true_class = torch.where(valid, labels, 0).long().unsqueeze(1)
    if count_first_pixel:
        valid = valid.clone()
        valid.view(-1)[0] = True
    probability = logits.detach().softmax(dim=1).gather(1, true_class).squeeze(1)
    # Pixels that do not count come last in the order, so that no size depends on what is in the labels.
    everywhere = scope.gather(torch.where(valid, probability, _NEVER).flatten())
    kth = everywhere.kthvalue(min(min_kept, everywhere.numel() - 1) + 1).values
    largest = torch.where(everywhere < _NEVER, everywhere, -1.0).max()
    hard = valid & (probability < torch.where(kth < _NEVER, kth, largest).clamp_min(threshold))
    return (losses * hard).sum() / scope.mean(hard.sum().float()).clamp_min(_TINY)


LOSSES["ce"] = cross_entropy
LOSSES["ohem"] = ohem_cross_entropy
