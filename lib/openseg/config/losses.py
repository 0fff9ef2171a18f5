"""Options of each loss; ``loss`` of a config is one of them, or a list whose weighted sum is minimized."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SerializeAsAny

from openseg.config.terms import Term, parse_terms
from openseg.losses.registry import LOSSES

__all__ = ["LOSS_SECTIONS", "LossTerm", "LossTerms", "PixelLossTerm"]

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
MeanOver = Literal["process", "batch"]
_MEAN_OVER = (
    "which pixels a mean and OHEM's choice are over: those of each process and accumulation step, as the original, or "
    "of the whole batch, which makes the loss independent of the number of processes"
)


class LossTerm(Term):
    """A loss of any network."""

    @classmethod
    def own_fields(cls) -> Collection[str]:
        return ("type", "weight", "aux_weight", "class_weights", "mean_over")


class PixelLossTerm(LossTerm):
    """A loss of the main logits, and of the auxiliary logits if weighted."""

    weight: Weight = Field(1.0, description="weight of this loss in the sum")
    aux_weight: Weight = Field(0.0, description="weight of the same loss on the auxiliary logits")
    class_weights: bool | Literal["inverse_log"] = Field(
        False,
        description="use the dataset's class weights, if the loss supports them; inverse_log: 1 / ln(1.1 + frequency) "
        "in the training split, divided by their mean",
    )


class CrossEntropyTerm(PixelLossTerm):
    """Cross-entropy."""

    type: Literal["ce"] = Field("ce", description="cross-entropy")
    aux_weight: Weight = Field(0.4, description="weight of the cross-entropy on the auxiliary logits")
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="probability that the target gives to all classes equally"
    )
    mean_over: MeanOver = Field("process", description=_MEAN_OVER)


class OHEMTerm(PixelLossTerm):
    """OHEM cross-entropy of the main logits, and plain cross-entropy of the auxiliary logits."""

    type: Literal["ohem"] = Field("ohem", description="cross-entropy of hard pixels only (OHEM)")
    aux_weight: Weight = Field(0.4, description="weight of the plain cross-entropy on the auxiliary logits")
    threshold: float = Field(0.9, description="pixels whose true class has a lower probability are hard")
    min_kept: Annotated[int, Field(ge=1)] = Field(100_000, description="minimum number of hard pixels")
    count_first_pixel: bool = Field(
        False, description="count the batch's first pixel even if it is ignored, as later versions of the original do"
    )
    mean_over: MeanOver = Field("process", description=_MEAN_OVER)


class DiceTerm(PixelLossTerm):
    """1 - Dice coefficient, mean over the classes of the batch."""

    type: Literal["dice"] = Field("dice", description="1 - Dice coefficient, mean over the classes of the batch")
    smooth: Annotated[float, Field(gt=0)] = Field(1.0, description="smoothing term added to numerator and denominator")


class LovaszTerm(PixelLossTerm):
    """Lovász-softmax, a surrogate of the IoU."""

    type: Literal["lovasz"] = Field("lovasz", description="Lovász-softmax, a surrogate of the IoU")


class BoundaryTerm(PixelLossTerm):
    """1 - boundary F-score of soft boundaries."""

    type: Literal["boundary"] = Field("boundary", description="1 - boundary F-score of soft boundaries")
    width: Annotated[int, Field(ge=1)] = Field(1, description="boundary width in pixels on each side")
    distance: Annotated[int, Field(ge=1)] = Field(2, description="maximum distance in pixels at which boundaries match")


class SegFixTerm(LossTerm):
    """Boundary mask and directions of a SegFix network."""

    type: Literal["segfix"] = Field("segfix", description="boundary mask and directions of a SegFix network")
    mask_weight: Weight = Field(1.0, description="weight of the boundary mask loss")
    direction_weight: Weight = Field(1.0, description="weight of the direction loss")
    mean_over: MeanOver = Field("process", description=_MEAN_OVER)


class RefinerTerm(LossTerm):
    """Probability of taking the right label."""

    type: Literal["refiner"] = Field("refiner", description="minus log probability of taking the right label")


LOSS_SECTIONS: dict[str, type[LossTerm]] = {
    "ce": CrossEntropyTerm,
    "ohem": OHEMTerm,
    "dice": DiceTerm,
    "lovasz": LovaszTerm,
    "boundary": BoundaryTerm,
    "segfix": SegFixTerm,
    "refiner": RefinerTerm,
}


def _parse(values: Any) -> Any:
    terms = parse_terms(values, LOSSES, PixelLossTerm, LOSS_SECTIONS, ("logits", "labels", "class_weights", "scope"))
    if not terms:
        raise ValueError("name at least one loss")
    return terms


LossTerms = Annotated[tuple[SerializeAsAny[LossTerm], ...], BeforeValidator(_parse)]
