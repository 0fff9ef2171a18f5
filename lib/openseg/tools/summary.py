"""Parameters, FLOPs and memory of a network, counted without computation or data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from openseg.config import Config
from openseg.models.factory import build_model

__all__ = ["count_flops", "summarize"]


class _LiveBytes(TorchDispatchMode):
    """The most bytes that tensors made within it hold at once."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._held: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                reference = StorageWeakRef(storage)
                self._held[reference.cdata] = reference, storage.nbytes()
        self._held = {key: each for key, each in self._held.items() if not each[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self._held.values()))
        return result


def summarize(config: Config, size: tuple[int, int]) -> dict[str, Any]:
    """Parameters by part, GFLOPs (a multiplication and an addition are two) and MiB of an image of (height, width).

    Memory is that of float32 activations beside the weights: ``prediction`` of one image, and ``training``, an
    image's share of a forward pass, which keeps them for the backward pass. Libraries take room of their own.
    """
    with torch.device("meta"):
        model = build_model(config)
        images = torch.empty(1, config.dataset_info.channels, *size)
    parts = {name: _parameters(child) for name, child in model.named_children()}
    return {
        "parameters": _parameters(model),
        "parts": parts,
        "weights MiB": sum(t.numel() * t.element_size() for t in model.state_dict().values()) / 2**20,
        "size": list(size),
        "GFLOPs": count_flops(model.eval(), images) / 1e9,
        "activations MiB": {
            "prediction": _activations(model.eval(), images, gradients=False),
            "training": _activations(model.train(), images.expand(2, -1, -1, -1), gradients=True) / 2,
        },
    }


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def count_flops(model: nn.Module, images: Tensor) -> int:
    """Floating point operations of a forward pass; a multiplication and an addition are two."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops()


def _activations(model: nn.Module, images: Tensor, gradients: bool) -> float:
    with torch.set_grad_enabled(gradients), _LiveBytes() as live:
        result = model(images)
    del result
    return live.peak / 2**20
