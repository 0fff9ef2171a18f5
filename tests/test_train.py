"""Training: resuming is exact, signals save, and nothing that is there is overwritten."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT

from openseg.config import load_config
from openseg.errors import CheckpointError
from openseg.models.checkpoint.io import read_checkpoint
from openseg.training import checkpoints
from openseg.training.state import Training, build_training, read_resumable
from openseg.training.step import Step
from openseg.training.trainer import run_training

CONFIGS = {"semantic": "configs/demo/hrnet_tiny_ocr.yaml", "segfix": "configs/demo/segfix_hrnet_tiny.yaml"}
EVERYTHING = [
    "train.ema=0.9",
    "train.precision=fp16",
    "train.accumulate=2",
    "train.clip_grad_norm=1",
    "train.schedule=cosine",
    "train.decay_norms=false",
    "train.grad_checkpointing=true",
    "train.channels_last=true",
    "train.head_lr_multiplier=2",
]


@pytest.fixture(params=CONFIGS)
def arguments(request, overrides):
    name = {"semantic": "hrnet_tiny_ocr", "segfix": "segfix_hrnet_tiny"}[request.param]
    return name, ["--config", ROOT / CONFIGS[request.param], *overrides]


def check_equal(first, second):
    a, b = read_checkpoint(first), read_checkpoint(second)
    for key in ("iteration", "best", "validated", "scaler", "averaged", "scores"):
        assert a.content.get(key) == b.content.get(key), key
    assert a.weights.keys() == b.weights.keys()
    assert all(torch.equal(a.weights[key], b.weights[key]) for key in a.weights)
    states = [list(c.content["optimizer"]["state"].values()) for c in (a, b)]
    assert states[0] and states[0][0]
    for ours, theirs in zip(*states, strict=True):
        assert all(torch.equal(torch.as_tensor(ours[key]), torch.as_tensor(theirs[key])) for key in theirs)
    for key, value in a.content.get("training_weights", {}).items():
        assert torch.equal(value, b.content["training_weights"][key])


@pytest.mark.parametrize("settings", [[], EVERYTHING], ids=["plain", "everything"])
def test_resuming_after_a_save_is_exact(settings, arguments, command, monkeypatch):
    name, options = arguments
    options = [*options, *settings]
    if name.startswith("segfix"):  # its gradients overflow until fp16's factor is smaller
        options.append("train.precision=bf16")
    assert command("train", *options, "--checkpoints", "whole") == 0

    from openseg.training import trainer as engine

    update, calls = engine.Step.__call__, []

    def dies_in_the_fourth_update(*values):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return update(*values)

    monkeypatch.setattr(engine.Step, "__call__", dies_in_the_fourth_update)
    assert command("train", *options, "--checkpoints", "parts") == 130
    latest = f"parts/demo/{name}_latest.pth"
    assert read_checkpoint(latest).content["iteration"] in (2, 3)  # fp16 may skip the second update
    monkeypatch.setattr(engine.Step, "__call__", update)
    assert command("resume", *options, "--checkpoints", "parts") == 0
    check_equal(f"whole/demo/{name}_latest.pth", latest)


@pytest.mark.slow
def test_resuming_after_a_signal_to_the_whole_group_is_exact(overrides, tmp_path):
    options = [
        "--config",
        CONFIGS["semantic"],
        *overrides,
        "data.workers=2",
        "train.max_iters=20",
        "train.val_interval=20",
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
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGKILL):
        folder = tmp_path / number.name
        parts = start("train", folder)
        latest = folder / "demo/hrnet_tiny_ocr_latest.pth"
        deadline = time.monotonic() + 120
        while not latest.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(parts.pid, number)
        _, error = parts.communicate(timeout=120)
        assert parts.returncode == (-9 if number == signal.SIGKILL else 130), error
        assert "Traceback" not in error
        assert read_checkpoint(latest).content["iteration"] < 20
        resumed = start("resume", folder)
        assert resumed.wait(timeout=300) == 0, resumed.stderr.read()
        check_equal(tmp_path / "whole/demo/hrnet_tiny_ocr_latest.pth", latest)


def test_train_never_overwrites_and_resume_needs_a_training(arguments, command, one_line_error, tmp_path):
    name, options = arguments
    latest = tmp_path / f"checkpoints/demo/{name}_latest.pth"
    one_line_error(command("resume", *options), latest.name, "nothing to resume from")
    latest.parent.mkdir(parents=True)
    torch.save({"state_dict": {"module.cls_head.weight": torch.zeros(19, 64, 1, 1)}}, latest)
    before = latest.read_bytes()
    one_line_error(command("train", *options), latest.name, "already exists")
    one_line_error(command("resume", *options), latest.name, "weights only", "--weights")
    assert latest.read_bytes() == before
    latest.rename(latest.with_name(f"{name}_best.pth"))
    one_line_error(command("train", *options), f"{name}_best.pth", "already exists")


def test_resume_refuses_other_settings(command, overrides, one_line_error, capsys):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    assert command("train", *options) == 0
    for change, before in (("train.lr=0.123", "0.005"), ("train.seed=9", "304"), ("loss.type=ohem", "ce")):
        key, now = change.split("=")
        one_line_error(command("resume", *options, change), f"{key}={before}", now)
    changes = ["train.lr=0.001", "train.clip_grad_norm=1", "train.max_iters=6", "--change"]
    assert command("resume", *options, *changes) == 0
    assert "train.lr was 0.005 and is 0.001" in capsys.readouterr().out
    one_line_error(command("resume", *options, *changes, "train.optimizer=sgd"), "train.optimizer=adamw")


def test_two_trainings_never_write_the_same_files(command, overrides):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    latest = Path("checkpoints/demo/hrnet_tiny_ocr_latest.pth")
    config = load_config(options[1], overrides)
    with (
        checkpoints.exclusive(latest),
        pytest.raises(CheckpointError, match=f"{latest}: another process is training it"),
    ):
        run_training(config, torch.device("cpu"), patience=0.1)
    assert command("train", *options) == 0
    assert not list(latest.parent.glob(".*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_reports_that_cannot_be_written_do_not_stop_a_training(command, overrides, capsys):
    folder = Path("runs/demo/hrnet_tiny_ocr")
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").symlink_to("/dev/full")
    assert command("train", "--config", ROOT / CONFIGS["semantic"], *overrides) == 0
    assert "No space left on device" in capsys.readouterr().out
    assert read_checkpoint("checkpoints/demo/hrnet_tiny_ocr_latest.pth").content["iteration"] == 4


@pytest.mark.parametrize("interrupted", [True, False])
def test_a_validation_that_was_cut_off_is_made_up_for(interrupted, command, overrides, monkeypatch, capsys):
    """The state is saved before a validation, so that neither is lost."""
    from openseg.training import trainer as engine

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
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    assert command("train", *options) == 0
    latest = Path("checkpoints/demo/hrnet_tiny_ocr_latest.pth")
    before = latest.read_bytes()
    options = [*options, "name=diverging", "train.max_nonfinite=2", "train.max_iters=40", "train.val_interval=40"]
    options.append("train.save_interval=2")
    one_line_error(
        command("train", *options, "train.lr=1e30", "--weights", latest),
        "non-finite gradients",
        "train.lr",
        "nonfinite.json",
    )
    found = json.loads(Path("runs/demo/diverging/nonfinite.json").read_text())
    updates = found["last"] - found["first"] + 1
    assert updates >= 2 and len(found["images"]) == 2 * updates
    assert all(Path(image).is_file() for image in found["images"])
    assert latest.read_bytes() == before
    assert not Path("checkpoints/demo/diverging_latest.pth").exists()


def test_training_writes_curves_pictures_and_the_best(command, overrides, tmp_path):
    assert command("train", "--config", ROOT / CONFIGS["semantic"], *overrides) == 0
    assert (tmp_path / "checkpoints/demo/hrnet_tiny_ocr_best.pth").is_file()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "runs/demo/hrnet_tiny_ocr")).Reload().Tags()
    wanted = {"train/loss", "train/main", "train/aux", "train/lr", "train/grad norm", "train/images/s", "val/mIoU"}
    assert wanted | {"val class IoU/road", "train/data wait"} <= set(events["scalars"])
    assert events["images"]
    folder = tmp_path / "runs/demo/hrnet_tiny_ocr"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3, 4, 4]
    assert lines[-1]["val"]["mIoU"] == read_checkpoint("checkpoints/demo/hrnet_tiny_ocr_best.pth").content["best"]
    assert yaml.safe_load((folder / "config.yaml").read_text())["train"]["max_iters"] == 4
    (start,) = [json.loads(line) for line in (folder / "starts.jsonl").read_text().splitlines()]
    assert start["torch"] == torch.__version__ and start["iteration"] == 0


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit"])
def test_a_damaged_newest_checkpoint_is_set_aside(damage, command, overrides, capsys):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    assert command("train", *options) == 0
    folder = Path("checkpoints/demo")
    latest, earlier = folder / "hrnet_tiny_ocr_latest.pth", folder / "hrnet_tiny_ocr_iter2.pth"
    assert read_checkpoint(earlier).content["iteration"] == 2
    content = latest.read_bytes()
    latest.rename(folder / "good.pth")
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    bad = {"truncated": content[: len(content) // 2], "empty": b"", "one bit": bytes(flipped)}[damage]
    latest.write_bytes(bad)
    capsys.readouterr()
    assert command("resume", *options) == 0
    output = capsys.readouterr().out
    assert "continuing from the earlier" in output and earlier.name in output
    assert (folder / "hrnet_tiny_ocr_latest.pth.damaged").read_bytes() == bad
    check_equal(folder / "good.pth", latest)


def test_as_many_states_are_kept_as_wanted(command, overrides):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides, "train.max_iters=6", "train.save_interval=1"]
    for keep in (1, 3):
        assert command("train", *options, f"train.keep={keep}", f"name=kept{keep}") == 0
    names = sorted(path.name for path in Path("checkpoints/demo").glob("[!.]*"))
    assert names == [
        *("kept1_best.pth", "kept1_latest.pth", "kept3_best.pth", "kept3_iter4.pth", "kept3_iter5.pth"),
        "kept3_latest.pth",
    ]


def test_a_full_disk_leaves_the_last_checkpoint(command, overrides, tmp_path):
    options = [*map(str, ["--config", ROOT / CONFIGS["semantic"], *overrides])]
    assert command("train", *options) == 0
    latest = tmp_path / "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    limit = latest.stat().st_size // 2
    done = subprocess.run(
        [sys.executable, ROOT / "main.py", "resume", *options, "train.max_iters=8"],
        capture_output=True,
        text=True,
        timeout=120,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr.startswith(f"error: cannot write {latest.relative_to(tmp_path)}") and done.stderr.count("\n") == 1
    )
    assert read_checkpoint(latest).content["iteration"] == 4
    assert sorted(path.name for path in latest.parent.iterdir() if ".part" in path.name) == []
    assert command("resume", *options, "train.max_iters=8") == 0


def test_auto_resume_starts_or_continues(command, overrides, capsys):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides, "--auto-resume"]
    assert command("train", *options) == 0
    assert command("train", *options, "train.max_iters=6") == 0
    output = capsys.readouterr().out
    assert "at iteration 4" in output and "train.max_iters was 4 and is 6" in output
    assert command("train", *options, "train.max_iters=6") == 0
    assert "training is complete (6 iterations)" in capsys.readouterr().out


def test_the_average_of_the_weights_is_what_is_kept(command, overrides):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides, "train.save_interval=1", "train.keep=4"]
    assert command("train", *options, "train.ema=0.75") == 0
    files = [f"checkpoints/demo/hrnet_tiny_ocr_{name}.pth" for name in ("iter1", "iter2", "iter3", "latest")]
    states = [read_checkpoint(file) for file in files]
    key = "backbone.conv1.weight"
    average = states[0].content["training_weights"][key]
    for state in states[1:]:
        average = 0.75 * average + 0.25 * state.content["training_weights"][key]
        torch.testing.assert_close(state.weights[key], average)
    assert not torch.equal(states[-1].weights[key], states[-1].content["training_weights"][key])


def test_computing_activations_twice_changes_nothing(command, overrides):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides]
    assert command("train", *options, "--checkpoints", "once") == 0
    assert command("train", *options, "train.grad_checkpointing=true", "--checkpoints", "twice") == 0
    check_equal("once/demo/hrnet_tiny_ocr_latest.pth", "twice/demo/hrnet_tiny_ocr_latest.pth")


def test_a_continued_training_takes_its_new_settings(command, overrides, tmp_path):
    """Also the state of its optimizer is in the memory layout that the network has now."""
    path = ROOT / CONFIGS["semantic"]
    assert command("train", "--config", path, *overrides) == 0
    changes = [
        "train.weight_decay=0.2",
        "train.head_lr_multiplier=5",
        "train.channels_last=true",
        "train.precision=fp16",
    ]
    config = load_config(path, [*overrides, *changes])
    latest = tmp_path / "checkpoints/demo/hrnet_tiny_ocr_latest.pth"
    checkpoint, config = read_resumable(latest, config, change=True)
    training = build_training(config, torch.device("cpu"), tmp_path)
    training.restore(checkpoint)
    groups = training.optimizer.param_groups
    assert {group["multiplier"] for group in groups} == {1, 5} and all(group["fused"] for group in groups)
    assert {group["weight_decay"] for group in groups} == {0.2}
    before = checkpoint.content["optimizer"]["state"]
    for number, (parameter, state) in enumerate(training.optimizer.state.items()):
        assert state["exp_avg"].stride() == parameter.stride()
        assert torch.equal(state["exp_avg"], before[number]["exp_avg"])


def test_what_leads_to_gradients_that_are_not_finite_is_not_kept(command, overrides, tmp_path, monkeypatch):
    """Not at a validation either; but the last state is saved, since nothing better will come."""
    real, calls = Step.forward, []

    def broken(self, *arguments):
        found = real(self, *arguments)
        calls.append(None)
        return {**found, "loss": found["loss"] * float("nan")} if 2 < len(calls) < 5 else found

    monkeypatch.setattr(Step, "forward", broken)
    saved = []
    monkeypatch.setattr(Training, "save", lambda self: saved.append(self.iteration))
    monkeypatch.setattr(Training, "save_best", lambda self: saved.append(-self.iteration))
    settings = ["train.max_iters=6", "train.val_interval=4", "train.save_interval=2"]
    assert command("train", "--config", ROOT / CONFIGS["semantic"], *overrides, *settings) == 0
    assert 4 not in saved and -4 not in saved and saved[:2] == [2, 5] and 6 in saved


@pytest.mark.parametrize(
    "settings",
    [
        ["train.batch_size=1", "augment.crop_size=[32,32]"],
        ["train.batch_size=2", "train.accumulate=2", "augment.crop_size=[32,32]"],
    ],
)
def test_a_single_value_in_a_batch_norm_is_refused_before_training(settings, command, overrides, one_line_error):
    options = ["--config", ROOT / CONFIGS["semantic"], *overrides, *settings]
    one_line_error(command("train", *options), "train.batch_size", "augment.crop_size", "train.freeze_bn=true")
    assert not Path("checkpoints").exists()
    assert command("train", *options, "train.freeze_bn=true", "train.max_iters=1") == 0
