"""Checkpoint files of any known layout -> our networks, with a report of what happened to each key.

A file is one of ours (``{"format": "openseg", "weights": ..., ...}`` or ``.safetensors``) or a state dict in one of the
layouts of ``layouts``, which may be prefixed with ``module.`` and sit in ``{"state_dict": ...}`` beside other things.
"""

from __future__ import annotations

import json
import os
import pickle
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from openseg.errors import CheckpointError, OpensegError
from openseg.io.files import atomic_write
from openseg.models.checkpoint.layouts import Converted, convert_state, is_whole_network

if TYPE_CHECKING:
    from openseg.config import Config

__all__ = [
    "Checkpoint",
    "KeyReport",
    "load_backbone",
    "load_weights",
    "match_weights",
    "read_checkpoint",
    "write_checkpoint",
    "write_weights",
]

_HEADER = {"format": "openseg", "version": 2}


@dataclass
class KeyReport:
    """What happened to the keys of a file when it met a network."""

    matched: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatch: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.shape_mismatch)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} keys matched ({len(self.renamed)} renamed)"]
        if self.filled:
            parts.append(f"{len(self.filled)} biases that the file's network does not have are zero")
        for name in ("missing", "unexpected", "shape_mismatch"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{len(keys)} {name} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
        return ", ".join(parts)


@dataclass
class Checkpoint:
    """A file, read and brought to our key names.

    Attributes:
        converted: its weights on the CPU, with plain batch norm, and what they ask of a config.
        content: everything else in one of our own files (optimizer, iteration, config, ...), else empty.
    """

    path: Path
    converted: Converted
    content: dict[str, Any] = field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        return self.converted.weights


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


def _read(path: Path) -> Any:
    """The content of a checkpoint file; no code in it is run."""
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder, no checkpoint")
    try:
        if path.suffix == ".safetensors":
            with safetensors.safe_open(path, framework="pt") as file:
                weights = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
                facts = json.loads((file.metadata() or {}).get("openseg", "null"))
            return weights if facts is None else {**facts, "weights": weights}
        with torch.serialization.safe_globals(_ALLOWED):
            content = torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and content.get("format") == _HEADER["format"]:
            _require_right_sums(path)
        return content
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except MemoryError:
        raise
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: not a checkpoint, or one that holds more than tensors and plain values{_hint(path)}"
        ) from None
    except Exception as error:  # PyTorch raises whatever its parsers meet in a damaged file
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(
            f"{path}: damaged or not a checkpoint ({reason}); download or copy it again{_hint(path)}"
        ) from None


def _require_right_sums(path: Path) -> None:
    """Raises ValueError where a part differs from the checksum that the archive has of it; PyTorch does not look."""
    with zipfile.ZipFile(path) as archive:
        broken = archive.testzip()
    if broken is not None:
        raise ValueError(f"the checksum of {broken} differs")


def _hint(path: Path) -> str:
    """What the file is instead, where that is plain to see."""
    try:
        with path.open("rb") as file:
            start = file.read(64).lstrip().lower()
    except OSError:
        return ""
    page = start.startswith((b"<!doctype", b"<html"))
    return "; it is a web page, such as a download service shows instead of the file" if page else ""


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in a container of any layout, without the ``module.`` of parallel training."""
    state = content
    for key in ("state_dict", "model", "weights"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            state = content[key]
            break
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def read_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint of any layout.

    Raises:
        CheckpointError: the file is missing, damaged, holds more than tensors and plain values, or is another network.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, dict) and content.get("format") == "openseg":
        try:
            if content.get("version") != _HEADER["version"]:
                raise CheckpointError(
                    f"{path}: written by another version of openseg (layout {content.get('version')}, this one reads "
                    f"{_HEADER['version']})"
                )
            weights, config = content.pop("weights"), content["config"]
            model, normalization = config["model"], config["normalization"]
            kept = ["backbone", "output_stride", "multi_grid"]
            kept += ["aux_channels", "aux_kernel"] if "head.aux.0.weight" in weights else []
            settings = {key: model[key] for key in kept if key in model}
            settings["head_activation"] = model["head_activation"] or "relu"
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: an openseg checkpoint without {error}; it was not written whole") from None
        _state_dict(path, weights)
        return Checkpoint(path, Converted("openseg", weights, settings=settings, normalization=normalization), content)
    try:
        return Checkpoint(path, convert_state(_state_dict(path, content)))
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None


def match_weights(weights: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], KeyReport]:
    wanted = model.state_dict()
    report = KeyReport()
    usable = {}
    for key, value in weights.items():
        if key not in wanted:
            report.unexpected.append(key)
        elif value.shape != wanted[key].shape:
            report.shape_mismatch.append(f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}")
        else:
            report.matched.append(key)
            usable[key] = value
    # A counter that evaluation never reads; files of torch 0.4 do not have it.
    report.missing = [key for key in wanted if key not in weights and not key.endswith(".num_batches_tracked")]
    return usable, report


def load_weights(model: nn.Module, checkpoint: Checkpoint, partial: bool = False) -> KeyReport:
    """Copy ``checkpoint`` into ``model``.

    Strictly: every weight must be there and fit. With ``partial``, what fits is copied and the rest of the network
    stays as it is, for instance the classifiers when the classes are others.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, or with ``partial`` less than half of the
            network fits; ``model`` is unchanged.
    """
    converted = checkpoint.converted
    usable, report = match_weights(converted.weights, model)
    report.renamed, report.filled = converted.renamed, converted.filled
    too_little = len(usable) * 2 < len(model.state_dict())
    if too_little if partial else not report.complete:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit this network: {report}; use the config that it was trained with, "
            "or, to start a training from what fits, train --weights FILE --partial"
        )
    model.load_state_dict(usable, strict=False)
    return report


def load_backbone(backbone: nn.Module, path: str | os.PathLike[str]) -> KeyReport:
    """Copy ImageNet weights into a backbone; the keys of their classification head are left out.

    Raises:
        CheckpointError: the file is no checkpoint, or lacks weights of this backbone.
    """
    path = Path(path)
    state = _state_dict(path, _read(path))
    if is_whole_network(state) and not any(key.startswith("decode_head.") for key in state):
        state = convert_state(state).weights  # where the gammas may be |weight|
    state = {key.removeprefix("backbone."): value for key, value in state.items()}
    if hasattr(backbone, "convert_keys"):
        state = backbone.convert_keys(state)  # type: ignore[operator]
    usable, report = match_weights(state, backbone)
    if report.missing or report.shape_mismatch:
        hint = backbone.explain_mismatch(state) if hasattr(backbone, "explain_mismatch") else ""  # type: ignore[operator]
        raise CheckpointError(f"{path}: not the weights of this backbone: {report}{'; ' if hint else ''}{hint}")
    backbone.load_state_dict(usable, strict=False)
    return report


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write one of our own files atomically: ``weights``, ``config`` and whatever else belongs to them.

    Raises:
        OpensegError: the disk is full or the folder cannot be written; the previous file is untouched.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({**_HEADER, **content}, temporary)
        except RuntimeError as error:  # torch's writer reports a full disk this way
            reason = str(error).splitlines()[0]
            raise OpensegError(f"cannot write {path}: {reason}; free some space and run again") from error


def write_weights(path: str | Path, model: nn.Module, config: Config) -> None:
    """Write a network's weights and its config in our layout, as ``.pth`` or ``.safetensors``, atomically."""
    path = Path(path)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    facts = {"config": config.dump(), "dataset": config.dataset_info.meaning}
    if path.suffix != ".safetensors":
        write_checkpoint(path, {"weights": weights, **facts})
        return
    with atomic_write(path) as temporary:
        safetensors.torch.save_file(weights, temporary, metadata={"openseg": json.dumps({**_HEADER, **facts})})
