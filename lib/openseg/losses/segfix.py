"""The loss of SegFix networks (Yuan, Xie, Chen, Wang: "SegFix", ECCV 2020, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from openseg.labels import IGNORE_INDEX
from openseg.losses.cross_entropy import PixelScope, SingleProcess, cross_entropy, pixel_count
from openseg.losses.registry import LOSSES
from openseg.models.layers import resize_logits
from openseg.models.segfix import SegFixOutput
from openseg.segfix.directions import NUM_DIRECTIONS

__all__ = ["SegFixLoss", "balancing_weights"]

_TINY = torch.finfo(torch.float32).tiny


def balancing_weights(labels: Tensor, num_classes: int, scope: PixelScope | None = None) -> Tensor:
    """``1 - share`` of each class among the pixels that count, ``float[num_classes]``."""
    counts = torch.stack([(labels == number).sum() for number in range(num_classes)]).float()
    counts = (scope or SingleProcess()).mean(counts)
    return 1 - counts / counts.sum().clamp_min(_TINY)


class SegFixLoss:
    """Boundary mask plus direction.

    Both are cross-entropies balanced by the shares of the labels in the batch. The direction counts only where the
    network itself predicts a boundary. The batch holds ``mask`` (0 inside, 1 boundary) and ``direction`` (0..7).
    """

    def __init__(
        self,
        mask_weight: float = 1.0,
        direction_weight: float = 1.0,
        mask_threshold: float = 0.5,
        scope: PixelScope | None = None,
    ) -> None:
        self.mask_weight, self.direction_weight = mask_weight, direction_weight
        self.mask_threshold, self.scope = mask_threshold, scope

    def __call__(
        self, output: SegFixOutput, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``whole`` is of no use here: which directions count depends on the logits, see ``loss.mean_over``."""
        mask, direction = batch["mask"], batch["direction"]
        size = (mask.shape[-2], mask.shape[-1])
        mask_logits = resize_logits(output.mask_logits.float(), size)
        direction_logits = resize_logits(output.direction_logits.float(), size)
        mask_loss = self._balanced(mask_logits, mask, 2)
        boundary = mask_logits.detach().softmax(dim=1)[:, 1] > self.mask_threshold
        direction = torch.where(boundary, direction, IGNORE_INDEX)
        direction_loss = self._balanced(direction_logits, direction, NUM_DIRECTIONS)
        total = self.mask_weight * mask_loss + self.direction_weight * direction_loss
        return {"loss": total, "mask": mask_loss.detach(), "direction": direction_loss.detach()}

    def _balanced(self, logits: Tensor, labels: Tensor, num_classes: int) -> Tensor:
        weights = balancing_weights(labels, num_classes, self.scope)
        count = None if self.scope is None else self.scope.mean(pixel_count(labels, weights))
        return cross_entropy(logits, labels, weights, count)


LOSSES["segfix"] = SegFixLoss
