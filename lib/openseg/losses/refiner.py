"""The loss of refiners: the probability of taking the right label, wherever that can go right and wrong."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from openseg.labels import IGNORE_INDEX
from openseg.losses.registry import LOSSES
from openseg.models.refiner import candidate_labels

__all__ = ["RefinerLoss"]

_IMPOSSIBLE = -1e4


class RefinerLoss:
    """Minus the logarithm of the summed probabilities of all candidates that have the true label.

    It counts pixels of which some candidates are right and some are wrong. The batch holds ``label`` (truth) and
    ``coarse`` (the labels to refine), both ``uint8[B, H, W]``; 255 in ``label`` is ignored.
    """

    def __init__(self, radii: Sequence[int]) -> None:
        self.radii = tuple(radii)

    def __call__(
        self, output: Tensor, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """``loss``, and ``accuracy``: the share of counted pixels whose most probable candidate is right."""
        truth = batch["label"][:, None]
        right = candidate_labels(batch["coarse"], self.radii) == truth
        counted = (right.any(dim=1) & ~right.all(dim=1) & (truth[:, 0] != IGNORE_INDEX)).float()
        number = counted.sum().clamp_min(1)
        log_probabilities = output.float().log_softmax(dim=1)
        losses = -log_probabilities.masked_fill(~right, _IMPOSSIBLE).logsumexp(dim=1)
        chosen = right.gather(1, output.detach().argmax(dim=1, keepdim=True))[:, 0]
        return {"loss": (losses * counted).sum() / number, "accuracy": (chosen * counted).sum() / number}


LOSSES["refiner"] = RefinerLoss
