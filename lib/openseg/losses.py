"""Training losses. Labels are training ids, ``uint8`` or ``int64``, with ``IGNORE`` = 255.

Logits come at the head's stride and are resized here to the label's size. When no pixel counts, a loss is a zero that
is still connected to the network, never NaN. Nothing here waits for a GPU.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.catalog import IGNORE
from openseg.config import Experiment, LossConfig
from openseg.errors import ConfigError
from openseg.models import SegFixOutput, SegmentorOutput
from openseg.models.layers import resize_logits
from openseg.segfix.directions import NUM_DIRECTIONS

_TINY = torch.finfo(torch.float32).tiny
_NEVER = 2.0  # larger than any probability

__all__ = ["SegFixLoss", "SegmentationLoss", "build_loss", "cross_entropy", "ohem_cross_entropy"]


class Scope(Protocol):
    """The processes whose pixels a mean is over."""

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' values."""

    def gather(self, values: Tensor) -> Tensor:
        """The values ``[N]`` of all processes, ``[processes * N]``."""


class Alone:
    """One process by itself."""

    def mean(self, value: Tensor) -> Tensor:
        return value

    def gather(self, values: Tensor) -> Tensor:
        return values


def pixel_count(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Number of pixels that count in ``labels[B, H, W]``, or the sum of their class weights: ``float[]``."""
    valid = labels != IGNORE
    if weights is None:
        return valid.sum().float()
    return torch.where(valid, weights[torch.where(valid, labels, 0).long()], 0.0).sum()


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None, count: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that count (divided by the sum of their class weights).

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``.
        weights: ``float[K]`` or None.
        count: what the sum is divided by instead of the ``pixel_count`` of ``labels``.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), weights, ignore_index=IGNORE, reduction="sum")
    return losses / (pixel_count(labels, weights) if count is None else count).clamp_min(_TINY)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float,
    min_kept: int,
    weights: Tensor | None = None,
    count_first_pixel: bool = False,
    scope: Scope | None = None,
) -> Tensor:
    """Cross-entropy of the hard pixels only (online hard example mining, as in the OC family).

    A pixel is hard when the probability of its true class is strictly below ``max(threshold, p)``, p being the
    ``min_kept``-th smallest such probability; the mean is over the number of hard pixels, also with class weights.
    ``count_first_pixel`` counts the batch's first pixel among those that count even if it is ignored, with a loss of 0.
    ``scope``: the processes whose pixels are compared and counted, by default this one.
    """
    scope = scope or Alone()
    logits = logits.float()
    losses = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE, reduction="none")
    valid = labels != IGNORE
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


class SegmentationLoss:
    """Cross-entropy (plain or OHEM) of the main logits plus ``aux_weight`` times plain cross-entropy of the others.

    With a ``scope``, means are over the pixels of its processes and of all parts of a batch, so that the mean of what
    processes and parts give is the loss of the whole.
    """

    def __init__(self, config: LossConfig, weights: Tensor | None, scope: Scope | None = None) -> None:
        self.config = config
        self.weights = weights
        self.scope = scope

    def __call__(
        self, output: SegmentorOutput, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``whole`` is the batch of which ``batch`` is a part."""
        labels, config = batch["label"], self.config
        count = None
        if self.scope is not None:
            all_labels = labels if whole is None else whole["label"]
            parts = len(all_labels) / len(labels)
            count = self.scope.mean(pixel_count(all_labels, self.weights) / parts)
        logits = resize_logits(output.logits.float(), labels.shape[-2:])
        if config.type == "ohem":
            rule = config.ohem_threshold, config.ohem_min_kept
            main = ohem_cross_entropy(logits, labels, *rule, self.weights, config.ohem_count_first_pixel, self.scope)
        else:
            main = cross_entropy(logits, labels, self.weights, count)
        terms = {"loss": main, "main": main.detach()}
        if output.aux_logits is not None and config.aux_weight > 0:
            aux_logits = resize_logits(output.aux_logits.float(), labels.shape[-2:])
            aux = cross_entropy(aux_logits, labels, self.weights, count)
            terms["loss"] = main + config.aux_weight * aux
            terms["aux"] = aux.detach()
        return terms


def balancing_weights(labels: Tensor, num_classes: int, scope: Scope | None = None) -> Tensor:
    """``1 - share`` of each class among the pixels that count, ``float[num_classes]``."""
    counts = torch.stack([(labels == number).sum() for number in range(num_classes)]).float()
    counts = (scope or Alone()).mean(counts)
    return 1 - counts / counts.sum().clamp_min(_TINY)


class SegFixLoss:
    """Loss of the SegFix network (ECCV 2020, section 3.2): boundary mask plus direction.

    Both are cross-entropies balanced by the shares of the labels in the batch. The direction counts only where the
    network itself predicts a boundary. The batch holds ``mask`` (0 inside, 1 boundary) and ``direction`` (0..7).
    """

    def __init__(self, config: LossConfig, scope: Scope | None = None) -> None:
        self.config = config
        self.scope = scope

    def __call__(
        self, output: SegFixOutput, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``whole`` is of no use here: which directions count depends on the logits, see ``loss.mean_over``."""
        config, mask, direction = self.config, batch["mask"], batch["direction"]
        mask_logits = resize_logits(output.mask_logits.float(), mask.shape[-2:])
        direction_logits = resize_logits(output.direction_logits.float(), mask.shape[-2:])
        mask_loss = self._balanced(mask_logits, mask, 2)
        boundary = mask_logits.detach().softmax(dim=1)[:, 1] > config.mask_threshold
        direction = torch.where(boundary, direction, IGNORE)
        direction_loss = self._balanced(direction_logits, direction, NUM_DIRECTIONS)
        total = config.mask_weight * mask_loss + config.direction_weight * direction_loss
        return {"loss": total, "mask": mask_loss.detach(), "direction": direction_loss.detach()}

    def _balanced(self, logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        weights = balancing_weights(labels, num_classes, self.scope)
        count = None if self.scope is None else self.scope.mean(pixel_count(labels, weights))
        return cross_entropy(logits, labels, weights, count)


def build_loss(
    experiment: Experiment, device: torch.device, scope: Scope | None = None
) -> SegmentationLoss | SegFixLoss:
    """The loss of an experiment: ``loss(output, batch)`` gives named terms, of which ``loss`` is to be minimised.

    ``scope`` is what ``loss.mean_over=batch`` is about.

    Raises:
        ConfigError: it asks for class weights, and the data set has none.
    """
    scope = scope if experiment.loss.mean_over == "batch" else None
    if experiment.task == "segfix":
        return SegFixLoss(experiment.loss, scope)
    values = experiment.catalog.class_weights if experiment.loss.class_weights else None
    if experiment.loss.class_weights and values is None:
        raise ConfigError(
            f"loss.class_weights: {experiment.catalog.name} has none; give its classes weights (main.py check suggests "
            "some), or set it to false"
        )
    return SegmentationLoss(experiment.loss, None if values is None else torch.tensor(values, device=device), scope)
