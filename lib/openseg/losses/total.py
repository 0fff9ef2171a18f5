"""Weighted sum of the configured losses.

Logits have the head's stride and are resized to the label's size here, or, with ``train.loss_stride``, to every n-th of
its rows and columns: neighboring pixels say much the same, and they are what takes long. Without valid pixels, a loss
is zero and still connected to the network, never NaN. Nothing here synchronizes with the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from openseg.config import Config
from openseg.config.losses import PixelLossTerm
from openseg.datasets.frequency import frequency_weights
from openseg.errors import ConfigError
from openseg.losses import boundary, region  # noqa: F401  (registered by being imported)
from openseg.losses.cross_entropy import PixelScope, cross_entropy, pixel_count
from openseg.losses.refiner import RefinerLoss
from openseg.losses.registry import LOSSES
from openseg.losses.segfix import SegFixLoss
from openseg.models.base import SegmentorOutput
from openseg.models.layers import resize_logits
from openseg.registry import parameters_of

__all__ = ["SegmentationLoss", "build_loss"]


class SegmentationLoss:
    """Sum of main losses times ``weight`` and auxiliary losses times ``aux_weight``.

    With a ``scope``, means are over the pixels of all processes and accumulation steps, so that the mean over those is
    the loss of the whole batch.
    """

    def __init__(
        self,
        terms: Sequence[PixelLossTerm],
        class_weights: Tensor | None = None,
        scope: PixelScope | None = None,
        stride: int = 1,
    ) -> None:
        self.terms, self.class_weights, self.scope, self.stride = tuple(terms), class_weights, scope, stride
        self._functions = [LOSSES.look_up(term.type, "loss.type") for term in self.terms]

    def __call__(
        self, output: SegmentorOutput, batch: dict[str, Tensor], whole: dict[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Named values, of which ``loss`` is to be minimized; ``whole`` is the batch of which ``batch`` is a part."""
        size = (batch["label"].shape[-2], batch["label"].shape[-1])
        labels = _thin_out(batch["label"], self.stride)
        main = _resize(output.logits.float(), size, self.stride)
        aux = None
        if output.aux_logits is not None and any(term.aux_weight > 0 for term in self.terms):
            aux = _resize(output.aux_logits.float(), size, self.stride)
        total: Tensor | None = None
        values: dict[str, Tensor] = {}
        for place, term in enumerate(self.terms):
            loss = self._value(place, main, labels, whole)
            total = term.weight * loss if total is None else total + term.weight * loss
            values["main" if len(self.terms) == 1 else self._name(place)] = loss.detach()
            if aux is not None and term.aux_weight > 0:
                aux_loss = self._value(place, aux, labels, whole, auxiliary=True)
                total = total + term.aux_weight * aux_loss
                values["aux" if len(self.terms) == 1 else f"aux {self._name(place)}"] = aux_loss.detach()
        assert total is not None
        return {"loss": total, **values}

    def _name(self, place: int) -> str:
        """A term's type, with a number if there are more of it."""
        kind = self.terms[place].type
        before = sum(term.type == kind for term in self.terms[:place])
        return f"{kind} {before + 1}" if before else kind

    def _value(
        self, place: int, logits: Tensor, labels: Tensor, whole: dict[str, Tensor] | None, auxiliary: bool = False
    ) -> Tensor:
        term, function = self.terms[place], self._functions[place]
        class_weights = self.class_weights if term.class_weights else None
        scope = self.scope if getattr(term, "mean_over", "process") == "batch" else None
        if function is cross_entropy or (auxiliary and term.type == "ohem"):  # OHEM picks among main pixels only
            count = self._count(labels, class_weights, scope, whole)
            return cross_entropy(logits, labels, class_weights, count, getattr(term, "label_smoothing", 0.0))
        context: dict[str, Any] = {"class_weights": class_weights, "scope": scope}
        known = parameters_of(function)
        provided = {name: value for name, value in context.items() if name in known}
        return function(logits, labels, **term.options, **provided)

    def _count(
        self,
        labels: Tensor,
        class_weights: Tensor | None,
        scope: PixelScope | None,
        whole: dict[str, Tensor] | None,
    ) -> Tensor | None:
        """What a sum of cross-entropies is divided by, if not by the number of its own pixels."""
        if scope is None:
            return None
        all_labels = labels if whole is None else _thin_out(whole["label"], self.stride)
        return scope.mean(pixel_count(all_labels, class_weights) / (len(all_labels) / len(labels)))


def _thin_out(labels: Tensor, stride: int) -> Tensor:
    """Every ``stride``-th row and column of ``[B, H, W]``, from the middle of the first ones."""
    return labels if stride == 1 else labels[:, stride // 2 :: stride, stride // 2 :: stride].contiguous()


def _resize(logits: Tensor, size: tuple[int, int], stride: int) -> Tensor:
    """The pixels of ``_thin_out`` of ``resize_logits(logits, size)``, without the others being computed.

    Bilinear interpolation is a matrix product for the columns and one for the rows, which is fast on every device.
    """
    if stride == 1:
        return resize_logits(logits, size)
    rows, columns = (_interpolation(*pair, stride, logits) for pair in zip(logits.shape[-2:], size, strict=True))
    return rows @ (logits.contiguous() @ columns.T)


def _interpolation(before: int, after: int, stride: int, like: Tensor) -> Tensor:
    """Weights ``[n, before]`` of linear interpolation to ``after`` values, of which n are wanted.

    They are made on the device of ``like``: a copy from the CPU would wait for the GPU.
    """
    wanted = torch.arange(stride // 2, after, stride, dtype=torch.float64, device=like.device)
    positions = wanted * ((before - 1) / max(after - 1, 1))
    return (1 - (positions[:, None] - torch.arange(before, device=like.device)).abs()).clamp_min(0).to(like.dtype)


def build_loss(
    config: Config, device: torch.device, scope: PixelScope | None = None
) -> SegmentationLoss | SegFixLoss | RefinerLoss:
    """The loss of a config: ``loss(output, batch)`` gives named values, of which ``loss`` is to be minimized.

    Args:
        config: the config.
        device: where logits are.
        scope: what ``loss.mean_over=batch`` is about.

    Raises:
        ConfigError: it asks for class weights, and the dataset or the loss has none.
    """
    if config.needs_coarse:
        return RefinerLoss(config.refiner.radii)
    if config.needs_targets:
        (term,) = config.loss
        scope = scope if getattr(term, "mean_over", "") == "batch" else None
        return SegFixLoss(**term.options, mask_threshold=config.segfix.mask_threshold, scope=scope)
    terms = [term for term in config.loss if isinstance(term, PixelLossTerm)]
    weighted = [term for term in terms if term.class_weights]
    for term in weighted:
        if "class_weights" not in parameters_of(LOSSES.look_up(term.type, "loss.type")):
            raise ConfigError(f"loss.class_weights: the loss '{term.type}' takes no class weights; set it to false")
    values: Sequence[float] | None = config.dataset_info.class_weights if weighted else None
    if {term.class_weights for term in weighted} == {True, "inverse_log"}:
        raise ConfigError("loss.class_weights: true and inverse_log exclude each other")
    if weighted and weighted[0].class_weights == "inverse_log":
        values = frequency_weights(config)
    if weighted and values is None:
        raise ConfigError(
            f"loss.class_weights: {config.dataset_info.name} has none; give its classes weights (main.py check "
            "suggests some), or set it to inverse_log or false"
        )
    class_weights = None if values is None else torch.tensor(values, device=device)
    return SegmentationLoss(terms, class_weights, scope, config.train.loss_stride)
