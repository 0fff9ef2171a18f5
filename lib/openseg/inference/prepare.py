"""Optimize a network for inference: the same function up to rounding, faster."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

__all__ = ["prepare_for_inference"]

logger = logging.getLogger("openseg")


def prepare_for_inference(model: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Fold batch norms, convert to ``dtype`` and set channels last; changes ``model``.

    Only exact float32 on a CUDA GPU (TF32 off) stays contiguous: there channels last was 7 to 17 % slower on an H100.
    The model is on the device that it will run on.

    A part that has no ``fuse()``, or whose ``fuse()`` raises NotImplementedError, stays as it is, which is right and
    slower; that is logged. The result takes inputs of any dtype and can neither be trained nor saved as a checkpoint.
    """
    model.eval().requires_grad_(False)
    for name, part in model.named_children():
        try:
            if not hasattr(part, "fuse"):
                raise NotImplementedError("it has no fuse()")
            part.fuse()  # type: ignore[operator]
        except NotImplementedError as error:
            logger.info("%s %s: norms are not folded (%s), which is slower", name, type(part).__name__, error)
    on_gpu = any(parameter.is_cuda for parameter in model.parameters())
    exact = on_gpu and dtype == torch.float32 and not torch.backends.cudnn.allow_tf32
    layout = torch.contiguous_format if exact else torch.channels_last
    model.to(dtype=dtype, memory_format=layout)  # type: ignore[call-overload]

    def convert_input(_: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        images, *rest = arguments
        return images.to(dtype=dtype, memory_format=layout), *rest

    model.register_forward_pre_hook(convert_input)
    return model
