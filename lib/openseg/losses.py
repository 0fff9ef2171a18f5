"""Training losses. Labels are training ids, ``uint8`` or ``int64``, with ``IGNORE`` = 255.

Logits come at the head's stride and are resized here to the label's size. When no pixel counts, a loss is a zero that
is still connected to the network, never NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from openseg.catalog import IGNORE
from openseg.config import Experiment, LossConfig
from openseg.errors import ConfigError
from openseg.models import SegFixOutput, SegmentorOutput
from openseg.models.layers import resize_logits
from openseg.segfix.directions import NUM_DIRECTIONS

__all__ = ["SegFixLoss", "SegmentationLoss", "build_loss", "cross_entropy", "ohem_cross_entropy"]


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over the pixels that count (divided by the sum of their class weights).

    Args:
        logits: ``float[B, K, H, W]``.
        labels: ``[B, H, W]``.
        weights: ``float[K]`` or None.
    """
    losses = F.cross_entropy(logits.float(), labels.long(), weights, ignore_index=IGNORE, reduction="sum")
    valid = labels != IGNORE
    total = valid.sum().to(losses.dtype) if weights is None else weights[labels[valid].long()].sum()
    return losses / total.clamp_min(torch.finfo(losses.dtype).tiny)


def ohem_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    threshold: float,
    min_kept: int,
    weights: Tensor | None = None,
    count_first_pixel: bool = False,
) -> Tensor:
    """Cross-entropy of the hard pixels only (online hard example mining, as in the OC family).

    A pixel is hard when the probability of its true class is strictly below ``max(threshold, p)``, p being the
    ``min_kept``-th smallest such probability; the mean is over the number of hard pixels, also with class weights.
    ``count_first_pixel`` counts the batch's first pixel among those that count even if it is ignored, with a loss of 0.
    """
    logits = logits.float()
    losses = F.cross_entropy(logits, labels.long(), weights, ignore_index=IGNORE, reduction="none")
    valid = labels != IGNORE
    true_class = torch.where(valid, labels, 0).long().unsqueeze(1)
    if count_first_pixel:
        valid = valid.clone()
        valid.view(-1)[0] = True
    probability = logits.detach().softmax(dim=1).gather(1, true_class).squeeze(1)[valid]
    if probability.numel() == 0:
        return logits.sum() * 0.0
    kth = min(min_kept, probability.numel() - 1) + 1
    hard = torch.zeros_like(valid)
    hard[valid] = probability < probability.kthvalue(kth).values.clamp_min(threshold)
    return (losses * hard).sum() / hard.sum().clamp_min(1)


class SegmentationLoss:
    """Cross-entropy (plain or OHEM) of the main logits plus ``aux_weight`` times plain cross-entropy of the others."""

    def __init__(self, config: LossConfig, weights: Tensor | None) -> None:
        self.config = config
        self.weights = weights

    def __call__(self, output: SegmentorOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        labels, config = batch["label"], self.config
        logits = resize_logits(output.logits.float(), labels.shape[-2:])
        if config.type == "ohem":
            main = ohem_cross_entropy(
                logits, labels, config.ohem_threshold, config.ohem_min_kept, self.weights, config.ohem_count_first_pixel
            )
        else:
            main = cross_entropy(logits, labels, self.weights)
        terms = {"loss": main, "main": main.detach()}
        if output.aux_logits is not None and config.aux_weight > 0:
            aux = cross_entropy(resize_logits(output.aux_logits.float(), labels.shape[-2:]), labels, self.weights)
            terms["loss"] = main + config.aux_weight * aux
            terms["aux"] = aux.detach()
        return terms


def balancing_weights(labels: Tensor, num_classes: int) -> Tensor:
    """``1 - share`` of each class among the pixels that count, ``float[num_classes]``."""
    counts = torch.bincount(labels[labels != IGNORE].long(), minlength=num_classes).float()
    return 1 - counts / counts.sum().clamp_min(1)


class SegFixLoss:
    """Loss of the SegFix network (ECCV 2020, section 3.2): boundary mask plus direction.

    Both are cross-entropies balanced by the shares of the labels in the batch. The direction counts only where the
    network itself predicts a boundary. The batch holds ``mask`` (0 inside, 1 boundary) and ``direction`` (0..7).
    """

    def __init__(self, config: LossConfig) -> None:
        self.config = config

    def __call__(self, output: SegFixOutput, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        config, mask, direction = self.config, batch["mask"], batch["direction"]
        mask_logits = resize_logits(output.mask_logits.float(), mask.shape[-2:])
        direction_logits = resize_logits(output.direction_logits.float(), mask.shape[-2:])
        mask_loss = cross_entropy(mask_logits, mask, balancing_weights(mask, 2))
        boundary = mask_logits.detach().softmax(dim=1)[:, 1] > config.mask_threshold
        direction = torch.where(boundary, direction, IGNORE)
        weights = balancing_weights(direction, NUM_DIRECTIONS)
        direction_loss = cross_entropy(direction_logits, direction, weights)
        total = config.mask_weight * mask_loss + config.direction_weight * direction_loss
        return {"loss": total, "mask": mask_loss.detach(), "direction": direction_loss.detach()}


def build_loss(experiment: Experiment, device: torch.device) -> SegmentationLoss | SegFixLoss:
    """The loss of an experiment: ``loss(output, batch)`` gives named terms, of which ``loss`` is to be minimised.

    Raises:
        ConfigError: it asks for class weights, and the data set has none.
    """
    if experiment.task == "segfix":
        return SegFixLoss(experiment.loss)
    values = experiment.catalog.class_weights if experiment.loss.class_weights else None
    if experiment.loss.class_weights and values is None:
        raise ConfigError(
            f"loss.class_weights: {experiment.catalog.name} has none; give its classes weights (main.py check suggests "
            "some), or set it to false"
        )
    return SegmentationLoss(experiment.loss, None if values is None else torch.tensor(values, device=device))
