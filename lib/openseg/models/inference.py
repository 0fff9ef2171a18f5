"""A network made ready to predict: the same function up to rounding, in less time."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["prepare_for_inference"]


def prepare_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fold batch norms into their convolutions, and compute in ``dtype`` with channels last. Changes ``model`` itself.

    It takes inputs of any type and can neither be trained nor saved as a checkpoint afterwards.
    """
    model.eval().requires_grad_(False)
    for module in list(model.modules()):
        children = dict(module.named_children())
        for name, child in children.items():
            norm = f"bn{name.removeprefix('conv')}"
            if isinstance(child, nn.Conv2d) and isinstance(children.get(norm), nn.BatchNorm2d):
                _fold(child, module, norm)
        if isinstance(module, nn.Sequential):
            for before, after in pairwise(children):
                nested = isinstance(children[after], nn.Sequential)  # norm and activation as one entry
                holder, norm = (children[after], "0") if nested else (module, after)
                if isinstance(children[before], nn.Conv2d) and isinstance(holder.get_submodule(norm), nn.BatchNorm2d):
                    _fold(children[before], holder, norm)
    model.to(dtype=dtype, memory_format=torch.channels_last)

    def convert_input(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        images, *rest = arguments
        return images.to(dtype=dtype, memory_format=torch.channels_last), *rest

    model.register_forward_pre_hook(convert_input)
    return model


def _fold(conv: nn.Conv2d, holder: nn.Module, norm: str) -> None:
    bn = holder.get_submodule(norm)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias
    )
    setattr(holder, norm, nn.Identity())
