"""What a backbone and a head must be, and what they may be able to do.

Any torch module that satisfies the protocol works; nothing is inferred from its class or its name. Optional methods are
looked for by name where they are needed: ``fuse()``, ``set_grad_checkpointing(enable)``, ``convert_keys(state)``,
``explain_mismatch(state)``, ``load_pretrained()``, ``synchronize_norms(model)``, and a property ``layers``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from openseg.errors import ConfigError

__all__ = [
    "Backbone",
    "Head",
    "SegmentorOutput",
    "freeze_statistics",
    "recompute",
    "require_backbone",
    "synchronize_norms",
]

T = TypeVar("T")


class SegmentorOutput(NamedTuple):
    """Logits ``float[B, K, h, w]`` at the head's stride; resize them with ``resize_logits``."""

    logits: Tensor
    aux_logits: Tensor | None


@runtime_checkable
class Backbone(Protocol):
    """``backbone(images: float[B, C, H, W])`` gives a list of feature maps, the finest first.

    Attributes:
        channels: channels of each map.
        strides: pixels of the image per pixel of each map, along a side.
    """

    channels: Sequence[int]
    strides: Sequence[int]

    def __call__(self, images: Tensor) -> list[Tensor]: ...


class Head(Protocol):
    """``head(features: list of float[B, C_i, h_i, w_i])`` gives logits ``float[B, K, h, w]``, and auxiliary or None.

    It is built as ``head(channels, strides, num_classes, **options)`` from the two facts of a backbone, and selects and
    joins the maps that it reads. If its ``forward`` has a parameter ``aux``, False tells it that auxiliary logits which
    the main ones do not need may be left out.
    """

    def __call__(self, features: list[Tensor], aux: bool = True) -> tuple[Tensor, Tensor | None]: ...


def require_backbone(module: nn.Module, name: str) -> None:
    """Raises ConfigError where a module does not say what ``Backbone`` says."""
    for fact in ("channels", "strides"):
        values = getattr(module, fact, None)
        if not isinstance(values, Sequence) or not values or not all(isinstance(each, int) for each in values):
            raise ConfigError(f"backbone '{name}': its {fact} must be a sequence of integers, one for each feature map")
    if len(module.channels) != len(module.strides):  # type: ignore[arg-type]
        raise ConfigError(f"backbone '{name}': channels and strides differ in length")
    if list(module.strides) != sorted(module.strides):  # type: ignore[arg-type, type-var]
        raise ConfigError(f"backbone '{name}': strides {list(module.strides)}: the finest map comes first")  # type: ignore[arg-type]


def freeze_statistics(model: nn.Module) -> None:
    """Let the batch norms of a network in training mode use the statistics that they have, and keep them."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def synchronize_norms(model: nn.Module) -> nn.Module:
    """The network with batch norms that share their statistics between the processes of a training on GPUs."""
    convert = getattr(model.get_submodule("backbone"), "synchronize_norms", nn.SyncBatchNorm.convert_sync_batchnorm)
    return convert(model)


def recompute(module: nn.Module, function: Callable[..., T], *inputs: Any) -> T:
    """``function(*inputs)`` of a part of ``module``, of which only the inputs are kept for the backward pass.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Results are the same bit for bit.
    """
    if not (module.training and torch.is_grad_enabled()):
        return function(*inputs)
    contexts = lambda: (contextlib.nullcontext(), _statistics_stay(module))  # noqa: E731
    return checkpoint(function, *inputs, use_reentrant=False, context_fn=contexts)


@contextlib.contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """The second computation must not count its samples in the running statistics again."""
    norms = [each for each in block.modules() if isinstance(each, _BatchNorm) and each.training]
    norms = [each for each in norms if each.track_running_stats and each.num_batches_tracked is not None]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in norms]  # type: ignore[union-attr]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(norms, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)  # type: ignore[union-attr]
