"""Checkpoint files of any known layout -> our networks, with a report of what happened to each key.

A file is one of ours (``{"format": "openseg", "weights": ..., ...}`` or ``.safetensors``) or holds, in any container
and behind any prefix (``containers``), a state dict in one of the layouts of ``layouts``.
"""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import Tensor, nn

from openseg.errors import CheckpointError, OpensegError, printable
from openseg.io.files import atomic_write
from openseg.models.checkpoint.containers import describe_keys, find_state, require_plain
from openseg.models.checkpoint.files import FORMAT, read_content
from openseg.models.checkpoint.layouts import Converted, convert_state, has_backbone, has_head, is_whole_network
from openseg.shipped import shipped_file

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

logger = logging.getLogger("openseg")

_HEADER = {"format": FORMAT, "version": 2}


@dataclass
class KeyReport:
    """What happened to the keys of a file when it met a network."""

    matched: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shape_mismatch: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.shape_mismatch)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} keys matched ({len(self.renamed)} renamed)"]
        if self.filled:
            parts.append(f"{len(self.filled)} biases that the file's network does not have are zero")
        if self.fresh:
            parts.append(f"{len(self.fresh)} of other classes initialized anew ({', '.join(self.fresh)})")
        for name in ("missing", "unexpected", "shape_mismatch"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{len(keys)} {name} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
        return printable(", ".join(parts))


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


def _own_facts(path: Path, content: dict[str, Any]) -> Converted:
    """Weights and settings of one of our own files."""
    if content.get("version") != _HEADER["version"]:
        raise CheckpointError(
            f"{path}: written by another version of openseg (layout {content.get('version')}, this one reads "
            f"{_HEADER['version']})"
        )
    _require_types(path, content)
    weights, config = content.pop("weights"), content["config"]
    model = config["model"]
    kept = ["backbone", "output_stride", "multi_grid"]
    kept += ["aux_channels", "aux_kernel"] if "head.aux.0.weight" in weights else []
    settings = {key: model[key] for key in kept if key in model}
    settings["head_activation"] = model["head_activation"] or "relu"
    return Converted(FORMAT, weights, settings=settings, normalization=config["normalization"])


def _require_types(path: Path, content: dict[str, Any]) -> None:
    """Raises CheckpointError where a part of our own files is missing or of another type."""
    numbers = (int, float)
    wanted: dict[str, tuple[Any, bool]] = {
        "weights": (dict, True),
        "config": (dict, True),
        "config.model": (dict, True),
        "config.model.head_activation": ((str, type(None)), True),
        "config.model.backbone": (str, False),
        "config.normalization": (dict, True),
        "dataset": (dict, False),
        "dataset.classes": (list, False),
        "dataset.values": (dict, False),
        "iteration": (int, False),
        "best": (numbers, False),
        "validated": ((int, type(None)), False),
        "scores": ((dict, type(None)), False),
        "optimizer": (dict, False),
    }
    for name, (types, needed) in wanted.items():
        holder, parts = content, name.split(".")
        for part in parts[:-1]:
            holder = holder.get(part, {})
        if parts[-1] not in holder:
            if needed:
                raise CheckpointError(f"{path}: an openseg checkpoint without {name}; the file is incomplete")
            continue
        value = holder[parts[-1]]
        if not isinstance(value, types) or (types is not dict and isinstance(value, bool)):
            raise CheckpointError(
                f"{path}: an openseg checkpoint whose {name} is a {type(value).__name__}; it was changed after it was "
                "written"
            )
    if any(not isinstance(key, str) or not isinstance(value, Tensor) for key, value in content["weights"].items()):
        raise CheckpointError(f"{path}: an openseg checkpoint whose weights are not all tensors by name")
    if any(
        not isinstance(key, str) or not isinstance(each, numbers) for key, each in (content.get("scores") or {}).items()
    ):
        raise CheckpointError(f"{path}: an openseg checkpoint whose scores are not all numbers by name")
    if any(not isinstance(name, str) for name in content.get("dataset", {}).get("classes", [])):
        raise CheckpointError(f"{path}: an openseg checkpoint whose dataset.classes are not all names")


def read_checkpoint(path: str | os.PathLike[str], entry: str | None = None) -> Checkpoint:
    """Read a checkpoint of any layout.

    Args:
        entry: which of several networks in the file, such as ``state_dict_ema``; None takes the first that is no
            average, and logs what the others are called.

    Raises:
        CheckpointError: the file is missing, damaged, or holds no network that we know.
    """
    path = shipped_file(path)
    content = read_content(path)
    try:
        if entry is None and isinstance(content, dict) and content.get("format") == FORMAT:
            converted = _own_facts(path, content)
            require_plain(converted.weights)
            return Checkpoint(path, converted, content)
        for accept in (is_whole_network, has_backbone, has_head):
            found = find_state(content, accept, entry)
            if accept(found.state):
                break
        if found.note and is_whole_network(found.state):
            logger.info("%s: %s", path, found.note)
        require_plain(found.state)
        return Checkpoint(path, convert_state(found.state))
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


def _of_other_classes(weights: dict[str, Tensor], model: nn.Module) -> list[str]:
    """Keys that differ from the network's in the first dimension alone, all of them in the same way: classifiers."""
    wanted = model.state_dict()
    differing = {key: value for key, value in weights.items() if key in wanted and value.shape != wanted[key].shape}
    changes = {(len(value), len(wanted[key])) for key, value in differing.items() if value.ndim}
    same_rest = all(value.ndim and value.shape[1:] == wanted[key].shape[1:] for key, value in differing.items())
    return list(differing) if len(changes) == 1 and same_rest else []


def load_weights(
    model: nn.Module, checkpoint: Checkpoint, partial: bool = False, new_classes: bool = False
) -> KeyReport:
    """Copy ``checkpoint`` into ``model``.

    All weights must exist and match. With ``new_classes``, classifiers of another number of classes stay as they are;
    with ``partial``, so does everything that does not match.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape, or with ``partial`` less than half of the
            network fits; ``model`` is unchanged.
    """
    converted = checkpoint.converted
    usable, report = match_weights(converted.weights, model)
    if new_classes and not (report.missing or report.unexpected):
        report.fresh = _of_other_classes(converted.weights, model)
        report.shape_mismatch = [] if report.fresh else report.shape_mismatch
    report.renamed, report.filled = converted.renamed, converted.filled
    too_little = len(usable) * 2 < len(model.state_dict())
    if too_little if partial else not report.complete:
        advice = "use the config that it was trained with"
        if not too_little:
            advice += ", or, to start a training from what fits, train --weights FILE --partial"
        else:
            advice += f" (the file has {describe_keys(converted.weights)}); too little fits to start a training from it"
        raise CheckpointError(f"{checkpoint.path}: does not fit this network: {report}; {advice}")
    model.load_state_dict(usable, strict=False)
    return report


def load_backbone(backbone: nn.Module, path: str | os.PathLike[str]) -> KeyReport | str:
    """Copy ImageNet weights into a backbone, without their classification head.

    Args:
        backbone: the module.
        path: the file; ``auto`` for the weights that a timm backbone finds itself.

    Returns:
        What happened to each key, or what was downloaded.

    Raises:
        CheckpointError: not a checkpoint, weights of this backbone are missing, or cannot be downloaded.
    """
    if path == "auto":
        if not hasattr(backbone, "load_pretrained"):
            raise CheckpointError(
                "model.pretrained=auto is of timm backbones; for this one name a file (pretrained_model/README.md)"
            )
        return backbone.load_pretrained()  # type: ignore[operator]
    path = Path(path)

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        if is_whole_network(state) and not any(key.startswith("decode_head.") for key in state):
            state = convert_state(state).weights  # where the gammas may be |weight|
        state = {key.removeprefix("backbone."): value for key, value in state.items()}
        return backbone.convert_keys(state) if hasattr(backbone, "convert_keys") else state  # type: ignore[operator]

    def is_backbone(state: dict[str, Tensor]) -> bool:
        try:
            return not match_weights(convert(state), backbone)[1].missing
        except CheckpointError:
            return False

    try:
        found = find_state(read_content(path), is_backbone)
        require_plain(found.state)
        state = convert(found.state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from None
    if found.note and is_backbone(found.state):
        logger.info("%s: %s", path, found.note)
    usable, report = match_weights(state, backbone)
    if report.missing or report.shape_mismatch:
        hint = backbone.explain_mismatch(state) if hasattr(backbone, "explain_mismatch") else ""  # type: ignore[operator]
        raise CheckpointError(f"{path}: not the weights of this backbone: {report}{'; ' if hint else ''}{hint}")
    backbone.load_state_dict(usable, strict=False)
    return report


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write an openseg checkpoint atomically: ``weights``, ``config`` and further content.

    Raises:
        OpensegError: full disk or unwritable folder; the previous file is unchanged.
    """
    with atomic_write(path) as temporary:
        try:
            torch.save({**_HEADER, **content}, temporary)
        except RuntimeError as error:  # torch's writer reports a full disk this way
            reason = str(error).splitlines()[0]
            reason = "No space left on device" if "unexpected pos" in reason else reason
            raise OpensegError(f"cannot write {path}: {reason}; free some space and run again") from error


def write_weights(path: str | Path, model: nn.Module, config: Config, half: bool = False) -> None:
    """Write a network's weights and config as an openseg checkpoint (``.pth`` or ``.safetensors``), atomically.

    With ``half``, floats are stored as float16, except for vectors: variances may be out of its range.
    """
    path = Path(path)
    weights = {key: value.contiguous() for key, value in model.state_dict().items()}
    if half:
        weights = {key: value.half() if value.ndim > 1 else value for key, value in weights.items()}
    facts = {"config": config.dump(), "dataset": config.dataset_info.meaning}
    if path.suffix != ".safetensors":
        write_checkpoint(path, {"weights": weights, **facts})
        return
    content = safetensors.torch.save(weights, metadata={"openseg": json.dumps({**_HEADER, **facts})})
    with atomic_write(path) as temporary:  # its own writer raises errors of its own, and lets nobody else read
        temporary.write_bytes(content)
