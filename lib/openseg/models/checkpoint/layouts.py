"""Conversion of other projects' state dict layouts.

Layouts:
    weights        openseg's key names.
    inplace_abn    the original's files for torch 0.4: BN and activation are one module, ``|weight| + 1e-5`` is the
                   gamma, heads use leaky ReLU (0.01). This is what was released.
    plain_bn       the original's later files: plain BN, heads use ReLU.
    hrnet_authors  HRNet + OCR of HRNet-Semantic-Segmentation: the backbone at the root, a 1x1 convolution in the
                   auxiliary head, no biases in the attention, ReLU; torch-0.4 files again store ``|weight| + 1e-5``.
    mmseg          OCRNet and ISANet on ResNet of mmsegmentation: stem of 32, 32 and 64 channels (``resnet101_v1c``).

mmsegmentation's HRNet files are refused: its HRNet resizes between branches without aligned corners, so the same
weights give another function. Its R-101 files give equal logits; mmsegmentation resizes them without aligned corners,
openseg with, so labels differ along edges.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from openseg.errors import CheckpointError
from openseg.models.checkpoint.containers import describe_keys

__all__ = ["Converted", "convert_state", "has_backbone", "has_head", "is_whole_network"]

INPLACE_ABN_EPS = 1e-5

_RGB = {"order": "rgb", "scale": 255.0, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
_NORM_LEAVES = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")

# Source prefix -> openseg prefix; the first match applies.
_ATTENTION = {"f_pixel.": "query.", "f_object.": "key.", "f_down.": "value.", "f_up.": "out."}
_SELF_ATTENTION = {"f_query.": "query.", "f_key.": "key.", "f_value.": "value.", "W.": "out."}
_ORIGINAL = {
    # Base-OC
    "oc_module_pre.": "head.pixels.",
    **{f"oc_module.stages.0.{a}": f"head.attention.{b}" for a, b in _SELF_ATTENTION.items()},
    "oc_module.conv_bn_dropout.": "head.bottleneck.",
    "cls.": "head.classifier.",
    "dsn.": "head.aux.",
    # ISA
    "isa_head.2.conv_bn.": "head.bottleneck.",
    **{f"isa_head.2.stages.0.long_range_sa.{a}": f"head.long_range.{b}" for a, b in _SELF_ATTENTION.items()},
    **{f"isa_head.2.stages.0.short_range_sa.{a}": f"head.short_range.{b}" for a, b in _SELF_ATTENTION.items()},
    "isa_head.": "head.pixels.",
    # OCR on ResNet and on HRNet
    "conv_3x3.": "head.pixels.",
    "conv3x3.": "head.pixels.",
    **{f"spatial_ocr_head.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    **{f"ocr_distri_head.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    "spatial_ocr_head.conv_bn_dropout.": "head.bottleneck.",
    "ocr_distri_head.conv_bn_dropout.": "head.bottleneck.",
    # ASP-OCR
    **{f"asp_ocr_head.context.2.object_context_block.{a}": f"head.attention.{b}" for a, b in _ATTENTION.items()},
    "asp_ocr_head.context.": "head.pixels.",
    **{f"asp_ocr_head.conv{i + 2}.": f"head.branches.{i}." for i in range(4)},
    "asp_ocr_head.conv_bn_dropout.": "head.bottleneck.",
    # shared
    "cls_head.": "head.classifier.",
    "head.": "head.classifier.",
    "dsn_head.3.": "head.aux.2.",  # a dropout took number 2
    "dsn_head.": "head.aux.",
    "aux_head.": "head.aux.",
    "dir_head.": "direction_head.",
}
_HRNET_AUTHORS = {
    "aux_head.0.": "head.aux.0.",
    "aux_head.1.": "head.aux.1.0.",
    "aux_head.3.": "head.aux.2.",
    "conv3x3_ocr.0.": "head.pixels.0.",
    "conv3x3_ocr.1.": "head.pixels.1.0.",
    **{key: name for key, name in _ORIGINAL.items() if key.startswith(("ocr_distri_head.", "cls_head."))},
    "": "backbone.",
}
_TWICE = {"0.conv.": "0.", "0.bn.": "1.0.", "1.conv.": "2.", "1.bn.": "3.0."}
_ONCE = {"conv.": "0.", "bn.": "1.0."}
_STEM = {"stem.0.": "conv1.", "stem.1.": "bn1.", "stem.3.": "conv2.", "stem.4.": "bn2.", "stem.6.": "conv3."}
_STEM["stem.7."] = "bn3."


def _blocks(theirs: str, ours: str, names: dict[str, str]) -> dict[str, str]:
    return {f"{theirs}{a}": f"{ours}{b}" for a, b in names.items()}


_MMSEG = {
    **_blocks("backbone.", "backbone.resinit.", _STEM),
    # OCRNet
    **_blocks("decode_head.0.convs.0.", "head.aux.", _ONCE),
    "decode_head.0.conv_seg.": "head.aux.2.",
    **_blocks("decode_head.1.bottleneck.", "head.pixels.", _ONCE),
    **_blocks("decode_head.1.object_context_block.query_project.", "head.attention.query.", _TWICE),
    **_blocks("decode_head.1.object_context_block.key_project.", "head.attention.key.", _TWICE),
    **_blocks("decode_head.1.object_context_block.value_project.", "head.attention.value.", _ONCE),
    **_blocks("decode_head.1.object_context_block.out_project.", "head.attention.out.", _ONCE),
    **_blocks("decode_head.1.object_context_block.bottleneck.", "head.bottleneck.", _ONCE),
    "decode_head.1.conv_seg.": "head.classifier.",
    # ISANet
    **_blocks("decode_head.in_conv.", "head.pixels.", _ONCE),
    **{
        key: name
        for theirs, ours in (("global", "long"), ("local", "short"))
        for key, name in {
            **_blocks(f"decode_head.{theirs}_relation.query_project.", f"head.{ours}_range.query.", _TWICE),
            **_blocks(f"decode_head.{theirs}_relation.key_project.", f"head.{ours}_range.key.", _TWICE),
            f"decode_head.{theirs}_relation.value_project.": f"head.{ours}_range.value.",
            **_blocks(f"decode_head.{theirs}_relation.output_project.", f"head.{ours}_range.out.", _ONCE),
        }.items()
    },
    **_blocks("decode_head.out_conv.", "head.bottleneck.", _ONCE),
    "decode_head.conv_seg.": "head.classifier.",
    **_blocks("auxiliary_head.convs.0.", "head.aux.", _ONCE),
    "auxiliary_head.conv_seg.": "head.aux.2.",
}


_BACKBONES = ("backbone.", "conv1.", "layer1.", "stage2.", "stem.", "resinit.")
_HEADS = (*_ORIGINAL, "mask_head.", "direction_head.", "conv3x3_ocr.", "decode_head.", "auxiliary_head.")


@dataclass
class Converted:
    """A state dict with openseg's keys.

    Attributes:
        layout: one of the names in the module docstring.
        renamed: new names of renamed keys.
        filled: zero-filled biases that the source network does not have.
        settings: ``model`` settings that these weights require.
        normalization: required ``normalization``, or None if the layout does not determine it.
    """

    layout: str
    weights: dict[str, Tensor]
    renamed: list[str] = field(default_factory=list)
    filled: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    normalization: dict[str, Any] | None = None


def convert_state(state: dict[str, Tensor]) -> Converted:
    """Recognize the layout of a complete network's state dict and convert it.

    Raises:
        CheckpointError: a backbone alone, or an mmsegmentation network with another function.
    """
    if not has_head(state):
        if has_backbone(state):
            raise CheckpointError(
                "holds no known head, at most a backbone such as ImageNet weights; for training, use those as "
                f"model.pretrained=FILE ({describe_keys(state)})"
            )
        raise CheckpointError(f"unknown network: {describe_keys(state)}")
    keys = list(state)
    if any(key.startswith(("head.classifier.", "direction_head.")) for key in keys):
        return Converted("weights", state)
    if any(key.startswith("conv3x3_ocr.") for key in keys):
        return _from_hrnet_authors(state)
    if any(key.startswith("decode_head.") for key in keys):
        return _from_mmseg(state)
    return _from_original(state)


def is_whole_network(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has a known head and a backbone."""
    return has_head(state) and has_backbone(state)


def has_head(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has keys of a head."""
    return any(key.startswith(_HEADS) for key in state)


def has_backbone(state: dict[str, Tensor]) -> bool:
    """Whether a state dict has keys of a backbone."""
    return any(key.startswith(_BACKBONES) for key in state)


def _rename(weights: dict[str, Tensor], names: dict[str, str]) -> tuple[dict[str, Tensor], list[str]]:
    result = {}
    for key, value in weights.items():
        prefix = next((prefix for prefix in names if key.startswith(prefix)), None)
        result[key if prefix is None else names[prefix] + key[len(prefix) :]] = value
    return result, [key for key in result if key not in weights]


def _plain_gammas(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """InPlace-ABN's ``|weight| + eps`` as plain gammas."""
    result = dict(state)
    for key in state:
        if key.endswith(".running_mean"):
            name = key.removesuffix("running_mean") + "weight"
            if name in state:
                result[name] = state[name].abs() + INPLACE_ABN_EPS
    return result


def _from_original(state: dict[str, Tensor]) -> Converted:
    # Decided from the heads alone: an ImageNet backbone looks the same in both layouts, but for a counter.
    norms = [key for key in state if key.endswith(".running_mean") and not key.startswith("backbone.")]
    counters = [key for key in state if key.endswith(".num_batches_tracked") and not key.startswith("backbone.")]
    inplace = bool(norms) and not counters
    weights = state
    if inplace:
        weights = {}
        heads = {key.removesuffix("running_mean") for key in norms}
        for key, value in _plain_gammas(state).items():
            prefix, _, leaf = key.rpartition(".")
            weights[f"{prefix}.0.{leaf}" if f"{prefix}." in heads else key] = value
    weights, _ = _rename(weights, _ORIGINAL)
    settings = {"head_activation": "leaky_relu" if inplace else "relu"} if norms else {}
    renamed = [key for key in weights if key not in state]
    return Converted("inplace_abn" if inplace else "plain_bn", weights, renamed, settings=settings)


def _from_hrnet_authors(state: dict[str, Tensor]) -> Converted:
    # Beside the network the file holds the loss, with its class weights.
    network = {key: value for key, value in state.items() if not key.startswith("loss.")}
    if not any(key.endswith(".num_batches_tracked") for key in network):
        network = _plain_gammas(network)
    weights, renamed = _rename(network, _HRNET_AUTHORS)
    return _foreign("hrnet_authors", weights, renamed)


def _from_mmseg(state: dict[str, Tensor]) -> Converted:
    weights, renamed = _rename(
        {key: value for key, value in state.items() if not key.startswith("data_preprocessor.")}, _MMSEG
    )
    reason = None
    if any(key.startswith("backbone.stage4.") for key in weights):
        reason = "HRNet resizes between branches without aligned corners"
    elif any(key.startswith(("decode_head.", "auxiliary_head.")) for key in weights):
        reason = "head is not one of ours"
    elif "backbone.resinit.conv3.weight" not in weights:
        reason = "backbone is not ResNetV1c"
    if reason is not None:
        raise CheckpointError(
            f"a file of mmsegmentation whose {reason}, so it is another network than ours; what loads of it is OCRNet "
            "and ISANet on ResNetV1c"
        )
    if "head.long_range.value.bias" in weights:
        _fit_isa(weights)
    converted = _foreign("mmseg", weights, renamed)
    depth = 101 if "backbone.layer3.22.conv1.weight" in weights else 50
    converted.settings["backbone"] = f"resnet{depth}_v1c"
    return converted


def _fit_isa(weights: dict[str, Tensor]) -> None:
    """Convert mmsegmentation's ISA: no value bias, and features before context.

    Attention weights sum to 1, so a bias of the values only shifts what the next norm sees.
    """
    for name in ("head.long_range.", "head.short_range."):
        bias = weights.pop(f"{name}value.bias")
        mean = f"{name}out.1.0.running_mean"
        weights[mean] = weights[mean] - weights[f"{name}out.0.weight"].flatten(1) @ bias
    context, features = weights["head.bottleneck.0.weight"].chunk(2, dim=1)
    weights["head.bottleneck.0.weight"] = torch.cat([features, context], dim=1)


def _foreign(layout: str, weights: dict[str, Tensor], renamed: list[str]) -> Converted:
    """What the layouts of others share: ReLU, RGB, an auxiliary head of their own shape, biases that OCR lacks."""
    if "head.aux.0.weight" not in weights:
        raise CheckpointError(
            f"a file of layout {layout} without its auxiliary head, which our network has; use it whole"
        )
    filled = []
    if "head.attention.query.0.weight" in weights:
        for key in [key for key in weights if key.startswith("head.") and weights[key].ndim == 4]:
            bias = key.removesuffix("weight") + "bias"
            if bias not in weights:
                weights[bias] = torch.zeros(len(weights[key]))
                filled.append(bias)
    channels, _, kernel, _ = weights["head.aux.0.weight"].shape
    settings = {"head_activation": "relu", "aux_channels": channels, "aux_kernel": kernel}
    return Converted(layout, weights, renamed, filled, settings, _RGB)
