"""What only a GPU can show; each is skipped without one. The goldens on it are in test_goldens_networks.py."""

import copy
import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, varied
from test_train import CONFIGS, EVERYTHING, check_equal

import openseg
from openseg.config import load_config
from openseg.io.images import read_label
from openseg.models.checkpoint.io import read_checkpoint
from openseg.models.factory import build_model
from openseg.training import trainer

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
SEMANTIC = ROOT / CONFIGS["semantic"]


@pytest.fixture
def trained(command, overrides):
    assert command("train", "--config", SEMANTIC, *overrides) == 0
    return "checkpoints/demo/hrnet_tiny_ocr_latest.pth"


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("settings", [[], EVERYTHING], ids=["plain", "everything"])
def test_resuming_is_exact(task, settings, command, overrides, monkeypatch):
    options = ["--config", ROOT / CONFIGS[task], *overrides, *settings, "--deterministic"]
    if settings and task == "segfix":  # its gradients overflow until fp16's factor is smaller
        options.append("train.precision=bf16")
    name = load_config(ROOT / CONFIGS[task]).name
    assert command("train", *options, "--checkpoints", "whole") == 0
    update, calls = trainer.Step.__call__, []

    def dies_in_the_fourth_update(*values):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*values)

    monkeypatch.setattr(trainer.Step, "__call__", dies_in_the_fourth_update)
    assert command("train", *options, "--checkpoints", "parts") == 130
    monkeypatch.setattr(trainer.Step, "__call__", update)
    assert command("resume", *options, "--checkpoints", "parts") == 0
    check_equal(f"whole/demo/{name}_latest.pth", f"parts/demo/{name}_latest.pth")


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16"])
@pytest.mark.parametrize("task", CONFIGS)
def test_every_precision_trains(task, precision, command, overrides, caplog):
    options = [f"train.precision={precision}", "train.channels_last=true"]
    caplog.set_level(logging.INFO, "openseg")
    assert command("train", "--config", ROOT / CONFIGS[task], *overrides, *options) == 0
    assert f"on {torch.cuda.get_device_name()}" in caplog.text


def test_first_losses_are_those_of_a_cpu(command, overrides):
    losses = {}
    for device in ("cpu", "cuda"):
        folder = ["--checkpoints", f"c_{device}", "--runs", f"r_{device}", "--device", device]
        assert command("train", "--config", SEMANTIC, *overrides, "model.dropout=0", *folder) == 0
        (file,) = Path(f"r_{device}").rglob("metrics.jsonl")
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        losses[device] = [line["loss"] for line in lines if "loss" in line]
    np.testing.assert_allclose(losses["cuda"][:2], losses["cpu"][:2], rtol=1e-2)


def test_predictions_are_those_of_a_cpu(trained, command, overrides, data_root):
    for device in ("cpu", "cuda"):
        options = [data_root / "demo/val/image", "--out", device, "--device", device]
        assert command("predict", "--config", SEMANTIC, "--checkpoint", trained, *options) == 0
    names = sorted(path.name for path in (data_root / "demo/val/label").iterdir())
    pairs = [[read_label(Path(device) / "label" / name) for device in ("cpu", "cuda")] for name in names]
    assert np.mean([np.mean(cpu == gpu) for cpu, gpu in pairs]) > 0.999


def test_a_full_gpu_predicts_in_windows(trained, caplog):
    predictor = openseg.Predictor(SEMANTIC, trained)
    image = np.random.default_rng(0).integers(0, 256, (2048, 4096, 3), np.uint8)
    whole = predictor(image).labels
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved()
    try:
        torch.cuda.set_per_process_memory_fraction((held + 600 * 2**20) / total)
        windows = predictor(image).labels
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "windows" in caplog.text
    assert windows.shape == whole.shape and np.mean(windows == whole) > 0.5


def test_one_process_of_torchrun_trains_on_the_gpu(run, overrides, tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    out = ["--checkpoints", tmp_path / "checkpoints", "--runs", tmp_path / "runs"]
    done = run(*torchrun, "main.py", "train", "--config", SEMANTIC, *overrides, *out)
    assert done.returncode == 0, done.stderr
    assert f"on {torch.cuda.get_device_name()}" in done.stdout
    assert read_checkpoint(tmp_path / "checkpoints/demo/hrnet_tiny_ocr_latest.pth").content["iteration"] == 4


def test_a_compiled_network_is_the_same(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # on by default; a compiled graph rounds elsewhere
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    torch.manual_seed(0)
    model = varied(build_model(load_config(SEMANTIC))).cuda().eval()
    images = torch.randn(1, 3, 128, 256, device="cuda")
    with torch.inference_mode():
        expected, compiled = model(images).logits, torch.compile(copy.deepcopy(model))(images).logits
    torch.testing.assert_close(compiled, expected, rtol=1e-3, atol=1e-3)
