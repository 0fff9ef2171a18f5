"""Training: resuming is exact, signals save, and nothing that is there is overwritten."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from conftest import ROOT

from openseg.models.weights import read_checkpoint

CONFIGS = {"semantic": "configs/demo/hrnet_tiny_ocr.yaml", "segfix": "configs/demo/segfix_hrnet_tiny.yaml"}


@pytest.fixture(params=CONFIGS)
def arguments(request, overrides):
    name = {"semantic": "hrnet_tiny_ocr", "segfix": "segfix_hrnet_tiny"}[request.param]
    return name, ["--config", ROOT / CONFIGS[request.param], *overrides]


def check_equal(first, second):
    a, b = read_checkpoint(first), read_checkpoint(second)
    assert a.content["iteration"] == b.content["iteration"]
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[key], b.weights[key]) for key in a.weights)
    states = [list(c.content["optimizer"]["state"].values()) for c in (a, b)]
    assert states[0] and states[0][0]
    for ours, theirs in zip(*states, strict=True):
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in theirs)


def test_resuming_after_a_save_is_exact(arguments, command, monkeypatch):
    name, options = arguments
    assert command("train", *options, "--checkpoints", "whole") == 0

    from openseg.engine import train as engine

    update, calls = engine._update, []

    def dies_in_the_fourth_update(*values):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*values)

    monkeypatch.setattr(engine, "_update", dies_in_the_fourth_update)
    assert command("train", *options, "--checkpoints", "parts") == 130
    latest = f"parts/demo/{name}_latest.pth"
    assert read_checkpoint(latest).content["iteration"] == 2
    monkeypatch.setattr(engine, "_update", update)
    assert command("resume", *options, "--checkpoints", "parts") == 0
    check_equal(f"whole/demo/{name}_latest.pth", latest)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_resuming_after_a_signal_to_the_whole_group_is_exact(number, overrides, tmp_path):
    options = [
        "--config",
        CONFIGS["semantic"],
        *overrides,
        "data.workers=2",
        "train.max_iters=30",
        "train.val_interval=30",
    ]

    def start(command, folder):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [
                sys.executable,
                "main.py",
                command,
                *map(str, options),
                "--checkpoints",
                folder,
                "--runs",
                tmp_path / "runs",
            ],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    whole = start("train", tmp_path / "whole")
    assert whole.wait(timeout=300) == 0, whole.stderr.read()
    parts = start("train", tmp_path / "parts")
    latest = tmp_path / "parts/demo/hrnet_tiny_ocr_latest.pth"
    deadline = time.monotonic() + 120
    while not latest.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(parts.pid, number)
    _, error = parts.communicate(timeout=120)
    assert parts.returncode == (-9 if number == signal.SIGKILL else 130), error
    assert "Traceback" not in error
    assert read_checkpoint(latest).content["iteration"] < 30
    resumed = start("resume", tmp_path / "parts")
    assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
    check_equal(tmp_path / "whole/demo/hrnet_tiny_ocr_latest.pth", latest)


def test_train_never_overwrites_and_resume_needs_a_training(arguments, command, one_line_error, tmp_path):
    name, options = arguments
    latest = tmp_path / f"checkpoints/demo/{name}_latest.pth"
    one_line_error(command("resume", *options), latest.name, "nothing to resume from")
    latest.parent.mkdir(parents=True)
    torch.save({"state_dict": {"module.cls_head.weight": torch.zeros(19, 64, 1, 1)}}, latest)
    before = latest.read_bytes()
    one_line_error(command("train", *options), latest.name, "is there already")
    one_line_error(command("resume", *options), latest.name, "weights only", "--weights")
    assert latest.read_bytes() == before
    latest.rename(latest.with_name(f"{name}_best.pth"))
    one_line_error(command("train", *options), f"{name}_best.pth", "is there already")


def test_resume_refuses_other_settings(command, overrides, one_line_error):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    assert command("train", *options) == 0
    for change, before in (("train.lr=0.123", "0.005"), ("train.seed=9", "304"), ("loss.type=ohem", "ce")):
        key, now = change.split("=")
        one_line_error(command("resume", *options, change), f"{key}={before}", now)


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_validation_that_was_cut_off_is_made_up_for(interrupted, command, overrides, monkeypatch, capsys):
    """The state is saved before a validation, so that neither is lost."""
    from openseg.engine import train as engine

    evaluate = engine.evaluate_network

    def cut_off(*_):
        raise KeyboardInterrupt

    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    if interrupted:
        monkeypatch.setattr(engine, "evaluate_network", cut_off)
    assert command("train", *options) == (130 if interrupted else 0)
    monkeypatch.setattr(engine, "evaluate_network", evaluate)
    capsys.readouterr()
    assert command("resume", *options) == 0
    assert ("validation at 4" in capsys.readouterr().out) == interrupted
    best = read_checkpoint("checkpoints/demo/hrnet_tiny_ocr_best.pth")
    latest = read_checkpoint("checkpoints/demo/hrnet_tiny_ocr_latest.pth")
    assert best.content["best"] == latest.content["best"] == latest.content["scores"]["mIoU"]
    assert latest.content["validated"] == 4


def test_weights_that_are_not_finite_never_replace_good_ones(command, overrides, one_line_error):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides, "train.save_interval=1"]
    one_line_error(command("train", *options, "train.lr=1e30"), "not finite", "train.lr", "_latest.pth")


def test_training_writes_curves_pictures_and_the_best(command, overrides, tmp_path):
    assert command("train", "--config", ROOT / CONFIGS["semantic"], *overrides) == 0
    assert (tmp_path / "checkpoints/demo/hrnet_tiny_ocr_best.pth").is_file()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs/demo/hrnet_tiny_ocr")).Reload().Tags()
    assert {"train/loss", "train/main", "train/aux", "train/lr", "val/mIoU"} <= set(events["scalars"])
    assert events["images"]


def test_fine_tuning_starts_from_given_weights(command, overrides, capsys, one_line_error):
    config = ROOT / CONFIGS["semantic"]
    assert command("train", "--config", config, *overrides) == 0
    weights = "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    assert command("train", "--config", config, *overrides, "name=tuned", "--weights", weights) == 0
    assert "keys matched" in capsys.readouterr().out
    options = [*overrides, "model.head_activation=leaky_relu", "name=other", "--weights", weights]
    one_line_error(command("train", "--config", config, *options), "model.head_activation=relu")
