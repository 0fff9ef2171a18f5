"""Layers shared by backbones and heads."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = [
    "LEAKY_SLOPE",
    "activation",
    "conv_bn",
    "conv_bn_act",
    "fold_norm",
    "fold_sequences",
    "resize_logits",
]

LEAKY_SLOPE = 0.01


def activation(name: str) -> nn.Module:
    """``relu``, or ``leaky_relu`` with the slope 0.01 of InPlace-ABN."""
    return {"relu": lambda: nn.ReLU(inplace=True), "leaky_relu": lambda: nn.LeakyReLU(LEAKY_SLOPE, inplace=True)}[
        name
    ]()


def conv_bn(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1, bias: bool = False, dilation: int = 1
) -> list[nn.Module]:
    """A same-padded convolution and its batch norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2 * dilation, dilation, bias=bias)
    return [conv, nn.BatchNorm2d(out_channels)]


def conv_bn_act(
    in_channels: int, out_channels: int, kernel: int, act: str = "relu", bias: bool = True, dilation: int = 1
) -> list[nn.Module]:
    """Convolution, then batch norm and activation as one entry: the key layout of the original's plain-BN files."""
    conv, norm = conv_bn(in_channels, out_channels, kernel, bias=bias, dilation=dilation)
    return [conv, nn.Sequential(norm, activation(act))]


def resize_logits(logits: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear resize of ``[B, C, h, w]`` to ``size`` with ``align_corners=True``, the rule of the whole OC family."""
    if tuple(logits.shape[-2:]) == tuple(size):
        return logits
    return F.interpolate(logits, size=(size[0], size[1]), mode="bilinear", align_corners=True)


def fold_norm(holder: nn.Module, conv: str, norm: str) -> None:
    """Fold the batch norm ``holder.<norm>``, in eval mode, into the convolution ``holder.<conv>`` before it."""
    convolution, batch_norm = holder.get_submodule(conv), holder.get_submodule(norm)
    _fold(convolution, batch_norm)
    setattr(holder, norm, nn.Identity())


def _fold(conv: nn.Module, norm: nn.Module) -> None:
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert norm.running_mean is not None and norm.running_var is not None
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )


def fold_sequences(module: nn.Module) -> None:
    """``fold_norm`` wherever ``conv_bn`` or ``conv_bn_act`` stand in an ``nn.Sequential`` of a module of our own.

    Only plain ``nn.Conv2d`` and ``nn.BatchNorm2d``: subclasses may do more than their base.
    """
    for sequence in [each for each in module.modules() if type(each) is nn.Sequential]:
        for before, after in pairwise(dict(sequence.named_children())):
            follower = sequence.get_submodule(after)
            holder, norm = (follower, "0") if type(follower) is nn.Sequential and len(follower) else (sequence, after)
            candidate = holder.get_submodule(norm)
            if type(candidate) is not nn.BatchNorm2d or candidate.running_mean is None:
                continue
            if type(sequence.get_submodule(before)) is nn.Conv2d:
                _fold(sequence.get_submodule(before), candidate)
                setattr(holder, norm, nn.Identity())
