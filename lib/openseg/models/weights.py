"""Any known checkpoint layout -> ours, with a report of what happened to each key.

Layouts:
    openseg      what this project writes: ``{"format": "openseg", "weights": ..., "experiment": ..., ...}``.
    inplace_abn  the original's files for torch 0.4: BN and activation are one module, ``|weight| + 1e-5`` is the gamma,
                 heads use leaky ReLU (0.01). This is what was released.
    plain_bn     the original's later files: plain BN, heads use ReLU.
    weights      a bare state dict in our own key names.

The last three may be prefixed with ``module.`` and sit in ``{"state_dict": ...}`` beside a ``config_dict``.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from openseg.config import Experiment
from openseg.errors import CheckpointError
from openseg.models import build_model

__all__ = [
    "Checkpoint",
    "KeyReport",
    "load_backbone",
    "load_model",
    "load_weights",
    "read_checkpoint",
    "with_activation",
]

INPLACE_ABN_EPS = 1e-5

# The original's head names -> ours, the first prefix that fits; backbone keys are the same.
_ATTENTION = {"f_pixel.": "query.", "f_object.": "key.", "f_down.": "value.", "f_up.": "out."}
_SELF_ATTENTION = {"f_query.": "query.", "f_key.": "key.", "f_value.": "value.", "W.": "out."}
_RENAMED = {
    # Base-OC
    "oc_module_pre.": "head.pixels.",
    **{f"oc_module.stages.0.{a}": f"head.attention.{b}" for a, b in _SELF_ATTENTION.items()},
    "oc_module.conv_bn_dropout.": "head.fuse.",
    "cls.": "head.classifier.",
    "dsn.": "head.aux.",
    # ISA
    "isa_head.2.conv_bn.": "head.fuse.",
    **{f"isa_head.2.stages.0.long_range_sa.{a}": f"head.long_range.{b}" for a, b in _SELF_ATTENTION.items()},
    **{f"isa_head.2.stages.0.short_range_sa.{a}": f"head.short_range.{b}" for a, b in _SELF_ATTENTION.items()},
    "isa_head.": "head.pixels.",
    # OCR on ResNet and on HRNet
    "conv_3x3.": "head.pixels.",
    "conv3x3.": "head.pixels.",
    **{f"spatial_ocr_head.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    **{f"ocr_distri_head.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    "spatial_ocr_head.conv_bn_dropout.": "head.fuse.",
    "ocr_distri_head.conv_bn_dropout.": "head.fuse.",
    # ASP-OCR
    **{f"asp_ocr_head.context.2.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    "asp_ocr_head.context.": "head.pixels.",
    **{f"asp_ocr_head.conv{i + 2}.": f"head.branches.{i}." for i in range(4)},
    "asp_ocr_head.conv_bn_dropout.": "head.fuse.",
    # shared
    "cls_head.": "head.classifier.",
    "head.": "head.classifier.",
    "dsn_head.3.": "head.aux.2.",  # a dropout took number 2
    "dsn_head.": "head.aux.",
    "aux_head.": "head.aux.",
    "dir_head.": "direction_head.",
}


@dataclass
class KeyReport:
    """What happened to the keys of a file when it met a network."""

    matched: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshapen: list[str] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        parts = [f"{len(self.matched)} keys matched ({len(self.renamed)} renamed)"]
        for name in ("missing", "unexpected", "misshapen"):
            keys = getattr(self, name)
            if keys:
                parts.append(f"{len(keys)} {name} ({', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''})")
        return ", ".join(parts)


@dataclass
class Checkpoint:
    """A file, read and brought to our key names.

    Attributes:
        layout: one of the names in the module docstring.
        weights: key -> tensor, on the CPU, plain batch norm.
        renamed: keys whose name was changed on the way.
        head_activation: what the heads must use, or None where the file does not tell.
        content: everything else in one of our own files (optimizer, iteration, experiment, ...), else empty.
    """

    path: Path
    layout: str
    weights: dict[str, Tensor]
    renamed: list[str]
    head_activation: str | None
    content: dict[str, Any]


def _read(path: Path) -> Any:
    """The content of a checkpoint file; no code in it is run (``weights_only``)."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path}: refused: not a checkpoint, or one that holds more than tensors and plain values"
        ) from None
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        reason = (str(error).splitlines() or ["empty file"])[0]
        raise CheckpointError(f"{path}: damaged or not a checkpoint ({reason}); download or copy it again") from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in a container of any layout, without the ``module.`` of parallel training."""
    state = content
    for key in ("state_dict", "model", "weights"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            state = content[key]
            break
    if not isinstance(state, dict) or not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{path}: holds no state dict of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def read_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint of any known layout of a whole network.

    Raises:
        CheckpointError: missing, damaged, not a checkpoint, or holding more than tensors and plain values.
    """
    path = Path(path)
    content = _read(path)
    if isinstance(content, dict) and content.get("format") == "openseg":
        if content.get("version") != 1:
            raise CheckpointError(
                f"{path}: written by a newer openseg (version {content.get('version')}); update openseg"
            )
        try:
            activation = content["experiment"]["model"]["head_activation"]
            return Checkpoint(path, "openseg", content.pop("weights"), [], activation, content)
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: an openseg checkpoint without {error}; it was not written whole") from None
    return _from_state_dict(path, _state_dict(path, content))


def _from_state_dict(path: Path, state: dict[str, Tensor]) -> Checkpoint:
    heads = [key for key in state if not key.startswith("backbone.")]
    if any(key.startswith(("head.classifier.", "direction_head.")) for key in heads):
        return Checkpoint(path, "weights", state, [], None, {})
    # Decided from the heads alone: backbones look the same in both layouts, but for a counter.
    has_norm = any(key.endswith(".running_mean") for key in heads)
    inplace = has_norm and not any(key.endswith(".num_batches_tracked") for key in heads)
    weights, renamed = {}, []
    for theirs, value in state.items():
        prefix, _, leaf = theirs.rpartition(".")
        ours = theirs
        if inplace and f"{prefix}.running_mean" in state:
            value = value.abs() + INPLACE_ABN_EPS if leaf == "weight" else value
            if not theirs.startswith("backbone."):
                ours = f"{prefix}.0.{leaf}"
        ours = _rename(ours)
        if ours != theirs:
            renamed.append(ours)
        weights[ours] = value
    activation = None
    if has_norm:
        activation = "leaky_relu" if inplace else "relu"
    return Checkpoint(path, "inplace_abn" if inplace else "plain_bn", weights, renamed, activation, {})


def _rename(key: str) -> str:
    for theirs, ours in _RENAMED.items():
        if key.startswith(theirs):
            return ours + key[len(theirs) :]
    return key


def _match(weights: dict[str, Tensor], model: nn.Module) -> tuple[dict[str, Tensor], KeyReport]:
    wanted = model.state_dict()
    report = KeyReport()
    usable = {}
    for key, value in weights.items():
        if key not in wanted:
            report.unexpected.append(key)
        elif value.shape != wanted[key].shape:
            report.misshapen.append(f"{key} {tuple(value.shape)} instead of {tuple(wanted[key].shape)}")
        else:
            report.matched.append(key)
            usable[key] = value
    # A counter that evaluation never reads; files of torch 0.4 do not have it.
    report.missing = [key for key in wanted if key not in weights and not key.endswith(".num_batches_tracked")]
    return usable, report


def load_weights(model: nn.Module, checkpoint: Checkpoint) -> KeyReport:
    """Copy ``checkpoint`` into ``model``, strictly: every weight must be there and fit.

    Raises:
        CheckpointError: keys are missing, unexpected or of another shape; ``model`` is unchanged.
    """
    usable, report = _match(checkpoint.weights, model)
    report.renamed = checkpoint.renamed
    if not report.complete:
        raise CheckpointError(
            f"{checkpoint.path}: does not fit this network: {report}; use the experiment that it was trained with"
        )
    model.load_state_dict(usable, strict=False)
    return report


def load_backbone(backbone: nn.Module, path: str | Path) -> KeyReport:
    """Copy ImageNet weights into a backbone; the keys of their classification head are left out.

    Raises:
        CheckpointError: the file is no checkpoint, or lacks weights of this backbone.
    """
    path = Path(path)
    state = _state_dict(path, _read(path))
    usable, report = _match({key.removeprefix("backbone."): value for key, value in state.items()}, backbone)
    if report.missing or report.misshapen:
        raise CheckpointError(f"{path}: not the weights of this backbone: {report}")
    backbone.load_state_dict(usable, strict=False)
    return report


def with_activation(experiment: Experiment, checkpoint: Checkpoint) -> Experiment:
    """The experiment with the activation that the checkpoint's heads were trained with, where the file tells."""
    if checkpoint.head_activation is None:
        return experiment
    model = experiment.model.model_copy(update={"head_activation": checkpoint.head_activation})
    return experiment.model_copy(update={"model": model})


def load_model(experiment: Experiment, path: str | Path) -> tuple[nn.Module, KeyReport]:
    """Build the network of an experiment with the weights of a checkpoint, in eval mode on the CPU.

    The file is read first: the activation of the heads is what its weights were trained with, whatever the
    experiment says, since another one silently costs accuracy.

    Raises:
        CheckpointError: the file is damaged or belongs to another network.
    """
    checkpoint = read_checkpoint(path)
    model = build_model(with_activation(experiment, checkpoint)).eval()
    stored = checkpoint.content.get("experiment", {}).get("normalization")
    if stored is not None and stored != experiment.normalization.model_dump(mode="json"):
        raise CheckpointError(f"{path}: was trained with another normalization, {stored}; set normalization to it")
    return model, load_weights(model, checkpoint)
