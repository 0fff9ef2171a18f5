"""Networks made ready to train: frozen statistics, blocks that are computed twice to save memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from openseg.models.backbones.hrnet import Bottleneck, HRModule

__all__ = ["checkpoint_activations", "freeze_statistics"]


def freeze_statistics(model: nn.Module) -> None:
    """Let the batch norms of a network in training mode use the statistics that they have, and keep them."""
    for layer in model.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def checkpoint_activations(model: nn.Module) -> None:
    """Keep of every module of an HRNet, or block of a ResNet, its input; the backward pass computes the rest again.

    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016. Results are the same bit for bit.
    """
    names = {HRModule.__name__, Bottleneck.__name__}  # torchvision's Bottleneck, of the ResNets, has the same name
    for block in model.modules():
        if type(block).__name__ in names:
            block.forward = _Twice(block)  # of this object only: names of weights stay as they are


class _Twice:
    def __init__(self, block: nn.Module) -> None:
        self.block = block

    def __call__(self, *inputs: Any) -> Any:
        forward = type(self.block).forward
        if not (self.block.training and torch.is_grad_enabled()):
            return forward(self.block, *inputs)
        return checkpoint(
            forward,
            self.block,
            *inputs,
            use_reentrant=False,
            context_fn=lambda: (contextlib.nullcontext(), _statistics_stay(self.block)),
        )


@contextlib.contextmanager
def _statistics_stay(block: nn.Module) -> Iterator[None]:
    """The second computation must not count its samples in the running statistics again."""
    norms = [layer for layer in block.modules() if isinstance(layer, _BatchNorm) and layer.training]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(norms, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)
