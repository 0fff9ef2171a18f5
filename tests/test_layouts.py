"""Checkpoints of other projects load where they are the same function.

The names are those of their released files. That the converted networks compute what theirs do was checked against
mmsegmentation 1.2.2 itself (OCRNet and ISANet on ResNet-101: logits equal to 4e-7).
"""

import pytest
import torch
from conftest import ROOT, varied

import openseg
from openseg.config import load_config
from openseg.errors import CheckpointError
from openseg.models.checkpoint.io import read_checkpoint
from openseg.models.checkpoint.load import load_network
from openseg.models.factory import build_model

TINY = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"


def tiny(*overrides):
    return build_model(load_config(TINY, overrides))


def hrnet_authors_state(model):
    """Our network's weights under the names of HRNet-Semantic-Segmentation; no biases where theirs has none."""
    state = {"loss.criterion.weight": torch.ones(19)}
    names = {"head.aux.0": "aux_head.0", "head.aux.1.0": "aux_head.1", "head.aux.2": "aux_head.3"}
    names |= {"head.pixels.0": "conv3x3_ocr.0", "head.pixels.1.0": "conv3x3_ocr.1", "head.classifier": "cls_head"}
    names |= {"head.bottleneck": "ocr_distri_head.conv_bn_dropout", "backbone.": ""}
    for ours, theirs in (("query", "f_pixel"), ("key", "f_object"), ("value", "f_down"), ("out", "f_up")):
        names[f"head.attention.{ours}"] = f"ocr_distri_head.object_context_block.{theirs}"
    for key, value in model.state_dict().items():
        ours = next(name for name in names if key.startswith(name))
        biased = ours.startswith(("head.aux", "head.pixels", "head.classifier", "backbone"))
        if biased or not (key.endswith(".bias") and key.replace(".bias", ".running_mean") not in model.state_dict()):
            state[f"model.{names[ours]}{key[len(ours) :]}"] = value
    return state


@pytest.mark.parametrize("flavour", ["torch11", "torch04"])
def test_hrnet_authors_files_load(flavour, tmp_path):
    """The torch-0.4 ones store |gamma| as well, yet their heads use plain ReLU."""
    model = varied(tiny("model.aux_kernel=1", "normalization.order=rgb")).eval()
    state = hrnet_authors_state(model)
    if flavour == "torch04":
        gammas = [key.replace("running_mean", "weight") for key in state if key.endswith("running_mean")]
        state = {key: 1e-5 - value if key in gammas else value for key, value in state.items()}
        state = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match="order: rgb"):
        openseg.load_model(TINY, tmp_path / "theirs.pth")
    loaded, report = load_network(load_config(TINY, ["normalization.order=rgb"]), tmp_path / "theirs.pth")
    assert report.filled and "biases" in str(report)
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        for ours, theirs in zip(model(images), loaded(images), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_what_came_from_another_project_is_converted_trained_and_resumed(
    tmp_path, command, overrides, capsys, one_line_error
):
    """The shape of its auxiliary head stays, although the config does not name it."""
    torch.save(hrnet_authors_state(tiny("model.aux_kernel=1")), tmp_path / "theirs.pth")
    rgb = "normalization={order: rgb}"
    assert command("convert", tmp_path / "theirs.pth", tmp_path / "ours.safetensors") == 0
    out = capsys.readouterr().out
    assert "configs/demo/hrnet_tiny_ocr.yaml" in out and "layout hrnet_authors" in out
    assert openseg.load_model(TINY, tmp_path / "ours.safetensors", [rgb]).head.aux[0].kernel_size == (1, 1)
    options = ["--config", TINY, *overrides, rgb]
    assert command("train", *options, "train.max_iters=1", "--weights", tmp_path / "theirs.pth") == 0
    assert command("resume", *options, "train.max_iters=2") == 0
    assert command("val", *options) == 0
    capsys.readouterr()
    one_line_error(command("val", "--config", TINY, *overrides), "order: rgb")


def mmseg_state(model, head):
    """Our network's weights under mmsegmentation's names; their ISA has biases of its values and another order."""
    twice = {"0.": "0.conv.", "1.0.": "0.bn.", "2.": "1.conv.", "3.0.": "1.bn."}
    once = {"0.": "conv.", "1.0.": "bn."}
    stem = dict(zip(("conv1", "bn1", "conv2", "bn2", "conv3", "bn3"), (0, 1, 3, 4, 6, 7), strict=True))
    names = {f"backbone.resinit.{name}.": f"backbone.stem.{i}." for name, i in stem.items()}

    def block(ours, theirs, layout):
        names.update({f"{ours}{a}": f"{theirs}{b}" for a, b in layout.items()})

    if head == "ocr":
        block("head.aux.", "decode_head.0.convs.0.", once)
        block("head.pixels.", "decode_head.1.bottleneck.", once)
        for part in ("query", "key"):
            block(f"head.attention.{part}.", f"decode_head.1.object_context_block.{part}_project.", twice)
        for part in ("value", "out"):
            block(f"head.attention.{part}.", f"decode_head.1.object_context_block.{part}_project.", once)
        block("head.bottleneck.", "decode_head.1.object_context_block.bottleneck.", once)
        names |= {"head.classifier.": "decode_head.1.conv_seg.", "head.aux.2.": "decode_head.0.conv_seg."}
    else:
        block("head.aux.", "auxiliary_head.convs.0.", once)
        block("head.pixels.", "decode_head.in_conv.", once)
        for ours, theirs in (("long", "global"), ("short", "local")):
            for part in ("query", "key"):
                block(f"head.{ours}_range.{part}.", f"decode_head.{theirs}_relation.{part}_project.", twice)
            names[f"head.{ours}_range.value."] = f"decode_head.{theirs}_relation.value_project."
            block(f"head.{ours}_range.out.", f"decode_head.{theirs}_relation.output_project.", once)
        block("head.bottleneck.", "decode_head.out_conv.", once)
        names |= {"head.classifier.": "decode_head.conv_seg.", "head.aux.2.": "auxiliary_head.conv_seg."}
    state = {}
    for key, value in model.state_dict().items():
        ours = next((name for name in names if key.startswith(name)), None)
        renamed = key if ours is None else names[ours] + key[len(ours) :]
        if not renamed.endswith("conv.bias"):
            state[renamed] = value
    if head == "isa":
        context_last = state["decode_head.out_conv.conv.weight"]
        state["decode_head.out_conv.conv.weight"] = torch.cat(context_last.chunk(2, dim=1)[::-1], dim=1)
        for theirs in ("global", "local"):
            state[f"decode_head.{theirs}_relation.value_project.bias"] = torch.randn(512)
    return state


@pytest.mark.parametrize("head", ["ocr", "isa"])
def test_mmsegmentation_files_load(head, tmp_path):
    torch.manual_seed(0)
    config = ROOT / f"configs/cityscapes/resnet50_{head}.yaml"
    overrides = ["model.head_activation=null", "normalization={order: rgb}"]
    model = openseg.load_model(config, None, [*overrides, "model.backbone=resnet50_v1c", "model.aux_channels=256"])
    model = varied(model)
    torch.nn.init.constant_(model.head.pixels[1][0].weight, 0.01)  # random features are large, attention too sharp
    state = mmseg_state(model, head)
    torch.save({"meta": {"CLASSES": ("road",)}, "state_dict": state}, tmp_path / "theirs.pth")
    loaded = openseg.load_model(config, tmp_path / "theirs.pth", overrides)
    if head == "isa":  # a bias of the values passes through attention unchanged
        with torch.no_grad():
            for theirs, ours in (("global", model.head.long_range), ("local", model.head.short_range)):
                bias = state[f"decode_head.{theirs}_relation.value_project.bias"]
                ours.value.bias = torch.nn.Parameter(bias)
    images = torch.randn(1, 3, 64, 96).double()  # or the CPU decides how far rounding goes
    with torch.inference_mode():
        for ours, theirs in zip(model.double()(images), loaded.double()(images), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (["decode_head.0.convs.0.conv.weight", "backbone.stage4.x"], "without aligned corners"),
        (["decode_head.psp_modules.x", "backbone.stem.6.weight"], "head is not one of ours"),
        (["decode_head.conv_seg.weight", "backbone.conv1.weight"], "backbone is not ResNetV1c"),
        (["decode_head.conv_seg.weight", "backbone.stem.6.weight"], "without its auxiliary head"),
    ],
)
def test_what_is_another_function_is_refused_with_the_reason(keys, reason, tmp_path):
    torch.save({"state_dict": {key: torch.zeros(1, 1, 1, 1) for key in keys}}, tmp_path / "theirs.pth")
    with pytest.raises(CheckpointError, match=rf"theirs\.pth: .*{reason}"):
        read_checkpoint(tmp_path / "theirs.pth")
