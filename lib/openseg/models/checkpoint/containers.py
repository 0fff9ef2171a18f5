"""Where in a checkpoint's content the weights are: in whichever container, behind whichever prefixes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from openseg.errors import CheckpointError, nearest_names
from openseg.models.checkpoint.files import StandIn, module_state

__all__ = ["Found", "describe_keys", "find_state", "require_plain"]

_DEEPEST = 5
_MOST_PLACES = 2000
State = dict[str, Tensor]


@dataclass(frozen=True)
class Found:
    """A state dict.

    Attributes:
        state: its tensors, without ``prefix``.
        entry: where it was, such as ``state_dict`` or ``checkpoint.model``; empty: at the top.
        prefix: what was taken off its keys, such as ``module.model.``.
        left_out: keys beside it that do not have the prefix.
        others: entries that would have done too.
    """

    state: State
    entry: str = ""
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What is not what everybody expects, for a log; empty where everything is."""
        parts = []
        if self.others:
            others = ", ".join(self.others)
            parts.append(f"took '{self.entry}' and not {others}, which main.py convert --entry NAME would take")
        elif self.entry not in ("", "state_dict", "model", "weights"):
            parts.append(f"took '{self.entry}'")
        if self.prefix not in ("", "module."):
            parts.append(f"took the prefix '{self.prefix}' off the keys")
        if self.left_out:
            parts.append(f"left out {len(self.left_out)} keys without it, such as {self.left_out[0]}")
        return "; ".join(parts)


def find_state(content: Any, accept: Callable[[State], bool], entry: str | None = None) -> Found:
    """The state dict in ``content`` that ``accept`` takes; where it takes none, the largest one as it is.

    Args:
        accept: says whether a state dict is what is looked for.
        entry: the name of the one to take, where several are acceptable.

    Raises:
        CheckpointError: there are no tensors by name, or no such entry.
    """
    states = dict(_states(content))
    if not states:
        raise CheckpointError(f"holds no state dict of tensors{_what_else(content)}")
    if entry is not None:
        if entry not in states:
            raise CheckpointError(f"has no entry '{entry}'; {nearest_names(entry, states)}")
        states = {entry: states[entry]}
    accepted = []
    for name, state in states.items():
        found = _without_prefix(state, accept)
        if found is not None:
            accepted.append(Found(found[0], name, found[1], found[2]))
    if accepted:  # an average, which training kept beside, comes after the weights themselves
        accepted.sort(key=lambda each: "ema" in each.entry.lower() or "average" in each.entry.lower())
        first, *others = accepted
        return Found(first.state, first.entry, first.prefix, first.left_out, tuple(each.entry for each in others))
    name, state = max(states.items(), key=lambda each: len(each[1]))
    return Found(state, name)


def describe_keys(state: State, count: int = 3) -> str:
    """The number of keys, the first few and their shapes."""
    items = [(key, value) for key, value in state.items() if value.ndim > 1] or list(state.items())
    shown = ", ".join(f"{key} {'x'.join(map(str, value.shape))}" for key, value in items[:count])
    return f"{len(state)} {'key' if len(state) == 1 else 'keys'}, such as {shown}"


def _states(content: Any) -> Iterator[tuple[str, State]]:
    """All dicts of tensors by their entry; the ones nearer to the top come first."""
    level: list[tuple[str, Any]] = [("", content)]
    seen: set[int] = set()
    for _ in range(_DEEPEST):
        below: list[tuple[str, Any]] = []
        for name, value in level[:_MOST_PLACES]:
            if id(value) in seen:
                continue
            seen.add(id(value))
            if isinstance(value, StandIn) and not value:
                state = module_state(value)
                if state:
                    yield name, state
                elif isinstance(value.state, dict):
                    below += [(_join(name, key), child) for key, child in value.state.items()]
            elif isinstance(value, dict):
                state = {key: each for key, each in value.items() if isinstance(key, str) and isinstance(each, Tensor)}
                if state:
                    yield name, state
                below += [(_join(name, key), child) for key, child in value.items() if isinstance(child, dict)]
        level = below


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)


def _what_else(content: Any) -> str:
    """What a file without tensors by name holds."""
    if isinstance(content, Tensor):
        return ": it is a single tensor"
    if isinstance(content, StandIn):
        return f": it is an object of class {content.name}; in the program that made it, save its state_dict()"
    if isinstance(content, dict):
        names = ", ".join(
            f"{key} ({value.name if isinstance(value, StandIn) else type(value).__name__})"
            for key, value in [*content.items()][:8]
        )
        return f"; it holds {names}" if names else "; it is empty"
    return f"; it is a {type(content).__name__}"


def _first_component(key: str) -> str:
    return key.partition(".")[0] + "." if "." in key else ""


def _without_prefix(
    state: State, accept: Callable[[State], bool], depth: int = 6
) -> tuple[State, str, tuple[str, ...]] | None:
    """``state``, or the part of it behind some prefix, that is acceptable, with the prefix and the other keys."""
    if accept(state):
        return state, "", ()
    if depth == 0:
        return None
    for component, _ in Counter(map(_first_component, state)).most_common(3):
        if not component:
            continue
        inside = {key[len(component) :]: value for key, value in state.items() if key.startswith(component)}
        found = _without_prefix(inside, accept, depth - 1)
        if found is not None:
            outside = tuple(key for key in state if not key.startswith(component))
            return found[0], component + found[1], outside + found[2]
    return None


def require_plain(state: State) -> None:
    """Raises CheckpointError where a value cannot be the weight of a network, by its name."""
    for key, value in state.items():
        kind = None
        if value.layout != torch.strided:
            kind = f"a sparse tensor ({str(value.layout).removeprefix('torch.')})"
        elif value.is_meta:
            kind = "a tensor without values (of the device meta)"
        elif value.is_quantized:
            kind = "a quantized tensor"
        elif key.endswith("num_batches_tracked"):
            continue
        elif value.dtype not in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
            kind = f"of type {str(value.dtype).removeprefix('torch.')}"
        elif not torch.isfinite(value).all():
            kind = "not finite (NaN or infinity), as after a training that diverged"
        if kind is not None:
            raise CheckpointError(f"its weight {key} is {kind}; save the network as dense, finite float tensors")
