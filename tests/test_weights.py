"""Checkpoints of every layout load; files that are none of this network are refused, and nothing in them runs."""

import argparse
import collections
import copy
import os
import pickle
import random
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import torchvision
from conftest import ROOT

import openseg
from openseg.config import load_config
from openseg.errors import CheckpointError
from openseg.models.checkpoint.io import load_weights, read_checkpoint, write_weights
from openseg.models.factory import build_model

TINY = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"


def tiny(*overrides):
    return build_model(load_config(TINY, overrides))


class Payload:
    def __reduce__(self):
        return (print, ("code in a checkpoint ran",))


def write_garbage(path, kind):
    if kind == "html":
        path.write_text("\n<!DOCTYPE html><html>quota exceeded</html>")
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "code":
        path.write_bytes(pickle.dumps({"state_dict": Payload()}))
    elif kind == "truncated":
        torch.save(tiny().state_dict(), path)
        path.write_bytes(path.read_bytes()[:5000])
    elif kind == "no tensors":
        torch.save({"state_dict": {"a": 1}}, path)


@pytest.mark.parametrize("kind", ["html", "empty", "code", "truncated", "no tensors", "missing"])
def test_garbage_is_refused_by_name(kind, tmp_path, capsys):
    path = tmp_path / "file.pth"
    write_garbage(path, kind)
    with pytest.raises(CheckpointError, match=r"file\.pth"):
        read_checkpoint(path)
    assert "ran" not in capsys.readouterr().out


def test_a_web_page_is_called_one(tmp_path):
    write_garbage(tmp_path / "file.pth", "html")
    with pytest.raises(CheckpointError, match="web page"):
        read_checkpoint(tmp_path / "file.pth")


@pytest.mark.parametrize("suffix", [".pth", ".legacy.pth", ".safetensors"])
def test_damage_anywhere_is_one_error(suffix, tmp_path):
    path = tmp_path / f"file{suffix}"
    state = {"conv1.weight": torch.randn(8, 3, 3, 3), "head.classifier.weight": torch.randn(4, 8, 1, 1)}
    if suffix == ".safetensors":
        openseg.models.checkpoint.io.safetensors.torch.save_file(state, path)
    else:
        torch.save({"state_dict": state}, path, _use_new_zipfile_serialization="legacy" not in suffix)
    whole, rng = path.read_bytes(), random.Random(0)
    for _ in range(60):
        damaged = bytearray(whole[: rng.randrange(len(whole))] if rng.random() < 0.5 else whole)
        for _ in range(rng.randrange(3)):
            if damaged:
                damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:  # what flips only a weight's bits cannot be noticed
            read_checkpoint(path)
        except CheckpointError as error:
            assert path.name in str(error)


def test_another_network_is_refused_and_changes_nothing(tmp_path):
    path = tmp_path / "camvid.pth"
    torch.save(tiny("data.dataset=camvid").state_dict(), path)
    model = tiny()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match="shape_mismatch"):
        load_weights(model, read_checkpoint(path))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def write_released(path, numpy_module="numpy._core.multiarray", value=None):
    """A file as torch 0.4 wrote them: not zipped, with the best score as a NumPy scalar."""
    state = {f"module.{key}": value for key, value in tiny().state_dict().items() if "num_batches" not in key}
    content = {"config_dict": {"max_performance": np.float64(0.5) if value is None else value}, "state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"numpy._core.multiarray", numpy_module.encode()))


@pytest.mark.parametrize("module", ["numpy._core.multiarray", "numpy.core.multiarray"])
def test_a_legacy_file_with_a_numpy_score_loads(module, tmp_path):
    write_released(tmp_path / "old.pth", module)
    assert b"scalar" in (tmp_path / "old.pth").read_bytes()
    assert len(read_checkpoint(tmp_path / "old.pth").weights) > 100


class Unknown:
    """Of a module that the reader does not have."""

    def __init__(self, values):
        self.values = values


BESIDE = {
    "scalar": np.int64(3),
    "array": np.zeros(19),
    "objects": np.array([Unknown(1)], dtype=object),
    "path": PurePosixPath("/data"),
    "namespace": argparse.Namespace(lr=0.1),
    "own class": Unknown([1, 2]),
    "default dict": collections.defaultdict(list, a=[1]),
}


@pytest.mark.parametrize("value", BESIDE.values(), ids=BESIDE)
@pytest.mark.parametrize("legacy", [False, True])
def test_what_else_a_file_holds_is_no_obstacle(value, legacy, tmp_path):
    weights = tiny().state_dict()
    content = {"meta": {"more": value}, "state_dict": weights}
    torch.save(content, tmp_path / "file.pth", _use_new_zipfile_serialization=not legacy)
    read = read_checkpoint(tmp_path / "file.pth").weights
    assert all(torch.equal(read[key], weights[key]) for key in weights)


WRAPPED = {
    "lightning": lambda weights: {"epoch": 1, "state_dict": {f"model.{key}": value for key, value in weights.items()}},
    "lightning, with its loss": lambda weights: {
        "state_dict": {"criterion.weight": torch.ones(19)} | {f"model.net.{k}": v for k, v in weights.items()}
    },
    "model_state_dict": lambda weights: {"model_state_dict": weights, "epoch": 1},
    "net": lambda weights: {"net": weights},
    "ema": lambda weights: {"ema": weights},
    "compiled, in parallel": lambda weights: {f"_orig_mod.module.{key}": value for key, value in weights.items()},
    "deep": lambda weights: {"checkpoint": {"model": {"module": {f"network.{k}": v for k, v in weights.items()}}}},
    "averaged": lambda weights: {"n_averaged": torch.tensor(3), **{f"module.{k}": v for k, v in weights.items()}},
    "optimizer beside": lambda weights: {"optimizer": {"state": {0: {"m": torch.ones(3)}}}, "params": weights},
}


@pytest.mark.parametrize("wrap", WRAPPED.values(), ids=WRAPPED)
def test_weights_are_found_in_any_container(wrap, tmp_path, command):
    model = tiny()
    torch.save(wrap(model.state_dict()), tmp_path / "wrapped.ckpt")
    assert command("convert", "wrapped.ckpt", "plain.pth", "--config", TINY) == 0
    plain = read_checkpoint(tmp_path / "plain.pth").weights
    assert all(torch.equal(plain[key], value) for key, value in model.state_dict().items())


def test_a_pickled_module_gives_its_weights_without_its_class(tmp_path):
    model = tiny()
    torch.save({"model": model, "epoch": 3}, tmp_path / "whole.pth")
    read = read_checkpoint(tmp_path / "whole.pth").weights
    assert all(torch.equal(read[key], value) for key, value in model.state_dict().items())


def test_of_several_networks_the_taken_one_is_named(tmp_path, command, caplog):
    first, second = tiny().state_dict(), tiny().state_dict()
    torch.save({"state_dict_ema": second, "state_dict": first}, tmp_path / "both.pth")
    caplog.set_level("INFO")
    assert command("convert", "both.pth", "first.pth", "--config", TINY) == 0
    assert "took 'state_dict' and not state_dict_ema" in caplog.text
    assert command("convert", "both.pth", "second.pth", "--config", TINY, "--entry", "state_dict_ema") == 0
    for name, expected in (("first", first), ("second", second)):
        read = read_checkpoint(tmp_path / f"{name}.pth").weights
        assert torch.equal(read["head.classifier.weight"], expected["head.classifier.weight"])


@pytest.mark.parametrize("subcommand", ["inspect", "convert"])
def test_a_foreign_network_is_described(subcommand, tmp_path, command, one_line_error):
    torch.save({f"encoder.level{i}.conv.weight": torch.ones(16, 3, 3, 3) for i in range(189)}, tmp_path / "espnet.pth")
    arguments = ["--checkpoint", "espnet.pth"] if subcommand == "inspect" else ["espnet.pth", "out.pth"]
    error = one_line_error(command(subcommand, *arguments), "189 keys", "encoder.level0.conv.weight 16x3x3x3")
    assert "backbone" not in error and "pretrained" not in error


def test_a_command_in_a_pickle_is_named_and_not_run(tmp_path):
    class Command:
        def __reduce__(self):
            return (os.system, (f"touch {tmp_path / 'ran'}",))

    torch.save({"state_dict": tiny().state_dict(), "beside": Command()}, tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"refused.*system"):
        read_checkpoint(tmp_path / "bad.pth")
    assert not (tmp_path / "ran").exists()


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"
    (tmp_path / "file.pth").write_text(pointer)
    with pytest.raises(CheckpointError, match=r"Git LFS pointer.*git lfs pull"):
        read_checkpoint(tmp_path / "file.pth")


ODD_WEIGHTS = {
    "NaN": lambda value: value * float("nan"),
    "int8": lambda value: value.to(torch.int8),
    "bool": lambda value: value > 0,
    "complex": lambda value: value.to(torch.complex64),
    "sparse": lambda value: value.to_sparse(),
    "quantized": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "meta": lambda value: value.to("meta"),
}


@pytest.mark.parametrize("change", ODD_WEIGHTS.values(), ids=ODD_WEIGHTS)
def test_weights_that_are_none_are_refused_by_key(change, tmp_path):
    state = tiny().state_dict()
    state["head.classifier.weight"] = change(state["head.classifier.weight"])
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(CheckpointError, match=r"odd\.pth.*head\.classifier\.weight"):
        read_checkpoint(tmp_path / "odd.pth")


def test_own_files_with_changed_facts_are_refused(tmp_path, command, one_line_error):
    model, config = tiny(), load_config(TINY)
    write_weights(tmp_path / "own.pth", model, config)
    whole = torch.load(tmp_path / "own.pth", weights_only=True)
    places = ["config", "config.model", "config.normalization", "config.data", "config.test", "dataset"]
    places += ["dataset.classes", "weights", "config.model.head_activation", "config.name", "iteration", "scores"]
    values = [[1, "a"], "text", 7, None, {(1, 2): "x"}]
    for place in places:
        for value in values:
            content = copy.deepcopy(whole)
            holder = content
            *above, last = place.split(".")
            for name in above:
                holder = holder[name]
            holder[last] = value
            torch.save(content, tmp_path / "changed.pth")
            code = command("inspect", "--checkpoint", "changed.pth")
            if code != 0:
                one_line_error(code, "changed.pth")


def test_keys_reach_the_terminal_without_its_commands(tmp_path, command, capsys):
    torch.save({"a\x1b[31m\nb.weight": torch.ones(3, 3)}, tmp_path / "odd.pth")
    assert command("inspect", "--checkpoint", "odd.pth") == 2
    error = capsys.readouterr().err
    assert "\x1b" not in error and error.count("\n") == 1


def released_tiny(tmp_path):
    """A network of ours in the layout of the released files, with negative gammas."""
    from openseg.models.checkpoint.layouts import _ORIGINAL

    model = tiny("model.head_activation=leaky_relu").eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    names = {
        ours: theirs for theirs, ours in _ORIGINAL.items() if theirs.startswith(("aux_", "conv3x3", "ocr", "cls_"))
    }
    state = {}
    for key, value in model.state_dict().items():
        prefix, _, leaf = key.rpartition(".")
        if leaf == "num_batches_tracked":
            continue
        if f"{prefix}.running_mean" in model.state_dict():
            value = 1e-5 - value if leaf == "weight" else value
            key = key if key.startswith("backbone.") else f"{prefix.removesuffix('.0')}.{leaf}"
        ours = next((ours for ours in names if key.startswith(ours)), "")
        state[f"module.{names.get(ours, '')}{key[len(ours) :]}"] = value
    torch.save({"config_dict": {}, "state_dict": state}, tmp_path / "released.pth")
    return model, tmp_path / "released.pth"


def test_a_released_file_is_fine_tuned_saved_and_loaded(tmp_path, command, overrides, data_root):
    model, path = released_tiny(tmp_path)
    assert command("train", "--config", TINY, *overrides, "train.max_iters=1", "--weights", path) == 0
    latest = tmp_path / "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        before, released = model(images).logits, openseg.load_model(TINY, path)(images).logits
        torch.testing.assert_close(released, before)
        tuned = openseg.load_model(TINY, latest)
        assert not torch.allclose(tuned(images).logits, before)
        again = tmp_path / "again.safetensors"
        assert command("convert", latest, again) == 0
        assert torch.equal(openseg.load_model(TINY, again)(images).logits, tuned(images).logits)
        halves = tmp_path / "halves.safetensors"
        assert command("convert", latest, halves, "--half") == 0
        assert halves.stat().st_size < 0.6 * again.stat().st_size
        torch.testing.assert_close(
            openseg.load_model(TINY, halves)(images).logits, tuned(images).logits, rtol=0, atol=0.05
        )
    activations = [type(m).__name__ for m in tuned.head.modules() if "ReLU" in type(m).__name__]
    assert set(activations) == {"LeakyReLU"}  # also after training: the checkpoint keeps what the file decided


def test_another_activation_or_normalization_is_a_conflict(tmp_path):
    _, path = released_tiny(tmp_path)
    with pytest.raises(CheckpointError, match=r"set model\.head_activation=leaky_relu"):
        openseg.load_model(TINY, path, ["model.head_activation=relu"])
    assert openseg.load_model(TINY, path, ["model.head_activation=leaky_relu"])
    config = load_config(TINY)
    openseg.models.checkpoint.io.write_weights(tmp_path / "ours.pth", tiny(), config)
    with pytest.raises(CheckpointError, match="normalization") as error:
        openseg.load_model(TINY, tmp_path / "ours.pth", ["normalization.order=rgb"])
    fix = str(error.value).split('"')[1]
    assert openseg.load_model(TINY, tmp_path / "ours.pth", ["normalization.order=rgb", fix])


def test_another_dilation_is_a_conflict(tmp_path):
    resnet = ["model.backbone=resnet_tiny"]
    config = load_config(TINY, [*resnet, "model.output_stride=16"])
    openseg.models.checkpoint.io.write_weights(tmp_path / "ours.pth", build_model(config), config)
    with pytest.raises(CheckpointError, match=r"set model\.output_stride=16"):
        openseg.load_model(TINY, tmp_path / "ours.pth", resnet)
    assert openseg.load_model(TINY, tmp_path / "ours.pth", [*resnet, "model.output_stride=16"])


def test_a_backbone_alone_is_no_network(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "imagenet.pth")
    with pytest.raises(CheckpointError, match=r"model\.pretrained=FILE"):
        openseg.load_model(TINY, tmp_path / "imagenet.pth")


def test_other_classes_only_with_partial(tmp_path):
    config = load_config(TINY, ["data.dataset=camvid"])
    source = build_model(config)
    openseg.models.checkpoint.io.write_weights(tmp_path / "camvid.pth", source, config)
    model = tiny()
    classifier = model.head.classifier.weight.clone()
    report = load_weights(model, read_checkpoint(tmp_path / "camvid.pth"), partial=True)
    assert sorted(key.split(" ")[0] for key in report.shape_mismatch) == sorted(
        f"head.{layer}.{leaf}" for layer in ("aux.2", "classifier") for leaf in ("weight", "bias")
    )
    assert torch.equal(model.head.classifier.weight, classifier)
    assert torch.equal(model.head.pixels[0].weight, source.head.pixels[0].weight)
    torch.save({"head.classifier.weight": classifier}, tmp_path / "little.pth")
    with pytest.raises(CheckpointError, match="does not fit"):
        load_weights(model, read_checkpoint(tmp_path / "little.pth"), partial=True)


@pytest.mark.slow
def test_convert_recognizes_the_experiment(command, tmp_path, capsys, one_line_error):
    _, path = released_tiny(tmp_path)
    assert command("convert", path, tmp_path / "out.pth") == 0
    out = capsys.readouterr().out
    assert "configs/demo/hrnet_tiny_ocr.yaml" in out and "layout inplace_abn" in out and "leaky_relu" in out
    one_line_error(command("convert", path, tmp_path / "out.pth"), "out.pth", "already")
    one_line_error(command("convert", path, tmp_path / "out.zip"), "out.zip", ".safetensors")
    torch.save({"head.classifier.weight": torch.zeros(3, 4, 1, 1)}, tmp_path / "strange.pth")
    one_line_error(command("convert", tmp_path / "strange.pth", tmp_path / "x.pth"), "no config", "--config")
    segfix = build_model(load_config(ROOT / "configs/cityscapes/segfix_hrnet48.yaml", ["model.backbone=hrnet18"]))
    torch.save(segfix.state_dict(), tmp_path / "strange.pth")
    code = command("convert", tmp_path / "strange.pth", tmp_path / "x.pth", "model.backbone=hrnet18")
    one_line_error(code, "several", "segfix_hrnet48.yaml", "segfix_hrnet48_inst.yaml", "--config")
    assert sorted(each.name for each in tmp_path.glob("*.pth")) == ["out.pth", "released.pth", "strange.pth"]


def test_a_bare_state_dict_is_converted_with_the_activation_that_is_named(command, tmp_path, one_line_error):
    model = tiny("model.head_activation=leaky_relu").eval()
    torch.save(model.state_dict(), tmp_path / "bare.pth")
    assert command("convert", tmp_path / "bare.pth", tmp_path / "out.pth", "model.head_activation=leaky_relu") == 0
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(openseg.load_model(TINY, tmp_path / "out.pth")(images).logits, model(images).logits)
    one_line_error(command("convert", tmp_path / "bare.pth", tmp_path / "x.pth", "model.hed=ocr"), "model.hed", "head")


def test_importing_the_package_costs_no_torch(run):
    assert run("-c", "import sys, openseg; sys.exit('torch' in sys.modules)").returncode == 0
