"""Learning rate schedules and optimizer parameter groups."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import nn

from openseg.config import TrainConfig

__all__ = ["build_optimizer", "lr_factor", "set_lr"]


def lr_factor(iteration: int, config: TrainConfig) -> float:
    """Return the factor of the base learning rate at an iteration (from 0), with linear warm-up."""
    done = iteration / config.max_iters
    factor = min((iteration + 1) / config.warmup_iters, 1.0) if config.warmup_iters else 1.0
    if config.schedule == "poly":
        return factor * (1 - done) ** config.poly_power
    if config.schedule == "cosine":
        return factor * (1 + math.cos(math.pi * done)) / 2
    return factor * config.step_factor ** sum(done >= milestone for milestone in config.milestones)


def set_lr(optimizer: torch.optim.Optimizer, iteration: int, config: TrainConfig) -> None:
    factor = config.lr * lr_factor(iteration, config)
    for group in optimizer.param_groups:
        group["lr"] = factor * group["multiplier"]


def _layer_scales(backbone: nn.Module, decay: float) -> dict[int, float]:
    """Learning rate factors by the identity of parameters: the last layer has ``decay``, the ones before it powers.

    Layers are the backbone's ``layers``, or the entries of its containers, in order; what is in none comes first.
    """
    if decay == 1:
        return {}
    layers: list[nn.Module] = list(getattr(backbone, "layers", None) or _layers_of(backbone))
    scales = {id(parameter): decay ** (len(layers) + 1) for parameter in backbone.parameters()}
    for depth, layer in enumerate(layers):
        scales |= {id(parameter): decay ** (len(layers) - depth) for parameter in layer.parameters()}
    return scales


def _layers_of(backbone: nn.Module) -> Iterator[nn.Module]:
    for child in backbone.children():
        yield from child if isinstance(child, (nn.Sequential, nn.ModuleList)) else (child,)


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD or AdamW with parameter groups for backbone layers, head and, without weight decay, norms.

    Frozen parameters are in none.
    """
    scales = _layer_scales(model.get_submodule("backbone"), config.layer_decay)
    groups: dict[tuple[bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = config.decay_norms or parameter.ndim > 1  # biases and the affine maps of norms are vectors
        in_backbone = name.startswith("backbone.")
        multiplier = scales.get(id(parameter), 1.0) if in_backbone else config.head_lr_multiplier
        groups.setdefault((in_backbone, multiplier, decays), []).append(parameter)
    parameters = [
        {
            "params": groups[in_backbone, multiplier, decays],
            "multiplier": multiplier,
            "weight_decay": config.weight_decay if decays else 0.0,
        }
        for in_backbone, multiplier, decays in sorted(groups, reverse=True)
    ]
    # One kernel for all parameters; it also skips an update without waiting for a GPU, see step.py.
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, fused=True)
    return torch.optim.SGD(parameters, lr=config.lr, momentum=config.momentum, fused=True)
