"""Folding of batch norms in networks whose structure is unknown: found by running them, and verified."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["fold_as_run"]

_TOLERANCE = 1e-3  # of the largest value of a map
_SEEDS = (0, 1)


def fold_as_run(module: nn.Module, shape: Sequence[int], first: Callable[[nn.Module], None] | None = None) -> int:
    """Fold each batch norm that receives exactly the output of a convolution into it; returns how many.

    Pairs are found by running the module, in eval mode, on random images of ``shape``; afterwards its outputs are
    compared with those before.

    Args:
        module: returns a list of maps; changed in place.
        shape: of its input, ``[B, C, H, W]``.
        first: another change that keeps the function, made before.

    Raises:
        NotImplementedError: the outputs would change; ``module`` is as it was.
    """
    device = next(module.parameters()).device
    before = _outputs(module, shape, device)
    original = dict(copy.deepcopy(module).named_children())
    if first is not None:
        first(module)
    pairs = _pairs(module, shape, device)
    for conv, norm_name in pairs:
        _fold(module, conv, norm_name)
    after = _outputs(module, shape, device)
    for old, new in zip(before, after, strict=True):
        if not (old - new).abs().max() <= _TOLERANCE * old.abs().max().clamp_min(1e-6):
            for name, child in original.items():
                setattr(module, name, child)
            raise NotImplementedError("folding them would change the outputs")
    return len(pairs)


@torch.no_grad()
def _outputs(module: nn.Module, shape: Sequence[int], device: torch.device) -> list[Tensor]:
    found = []
    for seed in _SEEDS:
        images = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(device)
        found += [each.float() for each in module(images)]
    return found


@torch.no_grad()
def _pairs(module: nn.Module, shape: Sequence[int], device: torch.device) -> list[tuple[nn.Conv2d, str]]:
    """Convolutions, each with the name of the norm that alone receives its output."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    norms: dict[int, list[str]] = {}
    runs: dict[nn.Module, int] = {}
    hooks = []

    def after_conv(conv: nn.Module, _: Any, output: Tensor) -> None:
        assert isinstance(conv, nn.Conv2d)
        runs[conv] = runs.get(conv, 0) + 1
        outputs[id(output)] = (conv, output)  # held, so that no other tensor gets its id

    def before_norm(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(norm: nn.Module, inputs: tuple[Any, ...]) -> None:
            runs[norm] = runs.get(norm, 0) + 1
            if id(inputs[0]) in outputs:
                norms.setdefault(id(inputs[0]), []).append(name)

        return hook

    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d):
            hooks.append(part.register_forward_hook(after_conv))
        elif isinstance(part, nn.BatchNorm2d) and part.running_mean is not None:
            hooks.append(part.register_forward_pre_hook(before_norm(name)))
    try:
        module(torch.randn(*shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    found = []
    for key, names in norms.items():
        conv = outputs[key][0]
        if len(names) == 1 and runs[conv] == 1 and runs[module.get_submodule(names[0])] == 1:
            found.append((conv, names[0]))
    return found


def _fold(module: nn.Module, conv: nn.Conv2d, name: str) -> None:
    norm: Any = module.get_submodule(name)
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    parent, _, leaf = name.rpartition(".")
    # timm's norms hold an activation, which stays.
    rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if isinstance(part, nn.Module)]
    setattr(module.get_submodule(parent), leaf, nn.Sequential(*rest) if rest else nn.Identity())
