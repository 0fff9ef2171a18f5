"""The content of checkpoint files: tensors and plain values, whatever else was pickled beside them.

Nothing in a file is run. What PyTorch's own reader of weights refuses is read again with stand-ins in place of every
class and function that is not one of the few that make up tensors, so a Namespace, a Path, a NumPy array or a whole
``nn.Module`` beside the weights is no obstacle.
"""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from collections import Counter, OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import safetensors
import torch
from torch import Tensor

from openseg.errors import CheckpointError
from openseg.io.files import explain_start

__all__ = ["FORMAT", "StandIn", "module_state", "read_content"]

FORMAT = "openseg"
"""What our own files say under ``format``."""

_TENSORS: dict[str, Any] = {
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "torch.Size": torch.Size,
    "torch.Tensor": Tensor,
    "torch.device": torch.device,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,  # type: ignore[attr-defined]
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,  # type: ignore[attr-defined]
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,  # type: ignore[attr-defined]
    "torch._utils._rebuild_parameter_with_state": lambda data, grad, hooks, state: data,
    "torch.storage.UntypedStorage": torch.storage.UntypedStorage,
    "torch.storage._load_from_bytes": None,  # reads another pickle: a stand-in
}
_ATTACKS = {"os", "posix", "nt", "sys", "subprocess", "shutil", "socket", "runpy", "ctypes", "webbrowser", "pty"}
_ATTACKING_BUILTINS = {"eval", "exec", "compile", "open", "__import__", "breakpoint", "input"}


def _float64(dtype: np.dtype, data: bytes) -> float:
    if dtype != np.float64:
        raise pickle.UnpicklingError(f"a NumPy scalar of type {dtype}")
    return float(np.frombuffer(data, dtype)[0])


# The original's files hold the best score as a NumPy scalar; nothing else of NumPy is let in.
_ALLOWED: list[Any] = [
    (_float64, "numpy.core.multiarray.scalar"),
    (_float64, "numpy._core.multiarray.scalar"),
    np.dtype,
    type(np.dtype(np.float64)),
]


class StandIn(dict[Any, Any]):
    """In the place of an object whose class is not loaded: its items and its attributes, and no code."""

    name = "an object"

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()
        self.state: Any = None

    def __new__(cls, *_: Any, **__: Any) -> StandIn:
        made = super().__new__(cls)
        made.state = None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *_: Any, **__: Any) -> StandIn:
        return self

    def append(self, _: Any) -> None:
        """What a list-like object held is of no use."""

    def extend(self, _: Any) -> None:
        """See ``append``."""

    add = append


def module_state(stand_in: StandIn, prefix: str = "", depth: int = 40) -> dict[str, Any]:
    """The state dict of a pickled ``nn.Module``, as ``state_dict()`` would have given it; empty of anything else."""
    state = stand_in.state
    if isinstance(state, tuple) and state and isinstance(state[0], dict):  # of a class with slots
        state = state[0]
    if not isinstance(state, dict) or not isinstance(state.get("_modules"), dict) or depth == 0:
        return {}
    found = {}
    for group in ("_parameters", "_buffers"):
        values = state.get(group)
        if isinstance(values, dict):
            found.update({f"{prefix}{key}": value for key, value in values.items() if isinstance(value, Tensor)})
    for key, child in state["_modules"].items():
        if isinstance(child, StandIn):
            found.update(module_state(child, f"{prefix}{key}.", depth - 1))
    return found


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if _TENSORS.get(full) is not None:
            return _TENSORS[full]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module.split(".")[0] in _ATTACKS or (module in ("builtins", "__builtin__") and name in _ATTACKING_BUILTINS):
            raise _AttackError(full)
        return type(name, (StandIn,), {"name": full})


class _AttackError(Exception):
    """A pickle asks for a function that runs commands."""


def _unpickle_load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


_PICKLE = SimpleNamespace(
    Unpickler=_Unpickler, load=_unpickle_load, UnpicklingError=pickle.UnpicklingError, __name__="pickle"
)


def read_content(path: Path) -> Any:
    """The content of a checkpoint file.

    Raises:
        CheckpointError: missing, damaged or not a checkpoint; the message says what the file is instead.
    """
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, not a checkpoint")
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path)
        content = _read_pickle(path)
        if isinstance(content, dict) and content.get("format") == FORMAT:
            _require_right_sums(path)
        return content
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except MemoryError:
        raise
    except _AttackError as error:
        raise CheckpointError(
            f"{path}: refused: reading it the usual way would run {error}, which no checkpoint needs; do not use it"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except Exception as error:  # PyTorch raises whatever its parsers meet in a damaged file
        what = explain_start(path)
        if what:
            raise CheckpointError(f"{path}: {what}") from None
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint ({reason[:300]}); download or copy it again"
        ) from None


def _read_safetensors(path: Path) -> Any:
    with safetensors.safe_open(path, framework="pt") as file:
        weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
        facts = json.loads((file.metadata() or {}).get("openseg", "null"))
    return {**facts, "weights": weights} if isinstance(facts, dict) else weights


def _read_pickle(path: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the pickle's protocol and the age of storages, not about the content
        try:
            with torch.serialization.safe_globals(_ALLOWED):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError:
            return torch.load(path, map_location="cpu", weights_only=False, pickle_module=_PICKLE)


def _require_right_sums(path: Path) -> None:
    """Raises ValueError where a part differs from the checksum that the archive has of it; PyTorch does not look."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of {broken} differs")
