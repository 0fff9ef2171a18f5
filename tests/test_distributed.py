"""Training in several processes: a real torchrun on this machine, over gloo."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, varied
from hypothesis import given
from hypothesis import strategies as st
from test_train import check_equal

from openseg.config import load_config
from openseg.datasets.loaders import draws_of
from openseg.datasets.samples import list_split
from openseg.distributed import pick_device
from openseg.errors import ConfigError
from openseg.io.images import read_label, write_label
from openseg.models.checkpoint.io import read_checkpoint, write_weights
from openseg.models.checkpoint.load import load_network
from openseg.models.factory import build_model
from openseg.training.validation import evaluate_network

SEMANTIC, SEGFIX = ROOT / "configs/demo/hrnet_tiny_ocr.yaml", ROOT / "configs/demo/segfix_hrnet_tiny.yaml"
ONE, TWO = [sys.executable], [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture
def training(tmp_path):
    """Starts ``main.py train`` in an own session, in one process or under torchrun."""
    started = []

    def start(processes, *options, command="train", **settings):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
        process = subprocess.Popen(
            [*map(str, [*processes, "main.py", command, *options, "--runs", tmp_path / "runs", "--device", "cpu"])],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            **settings,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def finish(process):
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return output + error


def losses_of(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def partly_ignored(data_root, tmp_path_factory):
    """The scenes, of which every other has most of its pixels ignored."""
    root = tmp_path_factory.mktemp("ignored")
    for split in ("train", "val"):
        (root / "demo" / split).mkdir(parents=True)
        for kind in ("image", "offset_gt"):
            (root / "demo" / split / kind).symlink_to(data_root / "demo" / split / kind)
        for number, path in enumerate(sorted((data_root / "demo" / split / "label").iterdir())):
            labels = np.array(read_label(path))
            if number % 2:
                labels[:, : labels.shape[1] * 4 // 5] = 0
            write_label(root / "demo" / split / "label" / path.name, labels)
    return root


@given(st.integers(0, 50), st.integers(1, 4), st.integers(1, 8))
def test_processes_share_every_batch_in_order(iteration, share, world):
    size = share * world
    parts = [draws_of(iteration, size, rank, world) for rank in range(world)]
    assert [draw for part in parts for draw in part] == list(draws_of(iteration, size))
    assert draws_of(iteration, size)[-1] + 1 == draws_of(iteration + 1, size)[0]


@pytest.mark.parametrize("what", [pytest.param("ce"), pytest.param("ohem", marks=pytest.mark.slow), "segfix"])
def test_two_processes_learn_what_one_does(what, training, command, overrides, partly_ignored, tmp_path):
    config = SEGFIX if what == "segfix" else SEMANTIC
    options = ["--config", config, *overrides, f"data.root={partly_ignored}", "train.max_iters=20"]
    options += ["train.val_interval=20", "train.save_interval=20", "train.batch_size=4", "train.freeze_bn=true"]
    # Of AdamW, which divides by the gradient's length, the first updates would enlarge any rounding.
    options += [
        "train.optimizer=sgd",
        "train.lr=0.002",
        "train.clip_grad_norm=1",
        "model.dropout=0",
        "loss.mean_over=batch",
    ]
    if what != "segfix":
        options += [f"loss.type={what}", *(["loss.min_kept=2000"] if what == "ohem" else [])]
    if what == "segfix":  # with norms that do nothing, its own initial weights leave nothing of the image
        torch.manual_seed(0)
        settings = load_config(config)
        write_weights(tmp_path / "start.pth", varied(build_model(settings)), settings)
        options += ["--weights", tmp_path / "start.pth"]
    finish(training(TWO, *options, "name=two", "--checkpoints", tmp_path / "checkpoints"))
    assert command("train", *options, "name=one") == 0
    one, two = (losses_of(tmp_path / "runs/demo" / name) for name in ("one", "two"))
    assert len(one) == 20
    assert len({round(loss, 3) for loss in one}) > 10  # it learns something
    np.testing.assert_allclose(two, one, rtol=1e-4)
    scores = [read_checkpoint(f"checkpoints/demo/{name}_best.pth").content["scores"] for name in ("one", "two")]
    for name, score in scores[0].items():
        assert abs(score - scores[1][name]) < 2e-3, name
    if what == "ce":
        assert command("train", *options, "name=parts", "train.accumulate=2") == 0
        np.testing.assert_allclose(losses_of(tmp_path / "runs/demo/parts"), one, rtol=1e-4)


def test_processes_validate_the_network_that_is_saved(training, overrides, data_root, tmp_path):
    """Without SyncBatchNorm each process has statistics of its own samples."""
    finish(training(TWO, "--config", SEMANTIC, *overrides, "train.max_iters=8", "--checkpoints", tmp_path))
    path = tmp_path / "demo/hrnet_tiny_ocr_latest.pth"
    config = load_config(SEMANTIC, overrides)
    model, _ = load_network(config, path)
    found = evaluate_network(model, config, list_split(config, "val"), torch.device("cpu"))
    assert found.scores == pytest.approx(read_checkpoint(path).content["scores"], abs=1e-9)


def small(overrides, folder, *more):
    options = ["--config", SEMANTIC, *overrides, "train.max_iters=40", "train.val_interval=40", "train.save_interval=1"]
    return [*options, *more, "--checkpoints", folder, "--auto-resume"]


def wait_for(path, process):
    deadline = time.monotonic() + 120
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.exists() or process.poll() == 0, process.communicate()


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children]


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to find the processes of torchrun")
def test_a_killed_process_is_started_again_and_nothing_is_lost(training, overrides, tmp_path):
    whole = training(TWO, *small(overrides, tmp_path / "whole"))
    finish(whole)
    again = training([*TWO, "--max-restarts", "1"], *small(overrides, tmp_path / "parts"))
    latest = tmp_path / "parts/demo/hrnet_tiny_ocr_latest.pth"
    wait_for(latest, again)
    os.kill(workers_of(again)[1], signal.SIGKILL)
    assert "resumed" in finish(again)
    check_equal(tmp_path / "whole/demo/hrnet_tiny_ocr_latest.pth", latest)

    # A scheduler's SIGTERM reaches torchrun: the state is saved, and fewer processes may continue.
    long = ["train.save_interval=1000", "train.max_iters=400", "train.val_interval=400"]
    starts = tmp_path / "runs/demo/hrnet_tiny_ocr/starts.jsonl"
    starts.unlink()
    stopped = training(TWO, *small(overrides, tmp_path / "stopped", *long))
    wait_for(starts, stopped)
    time.sleep(1)
    stopped.terminate()
    _, error = stopped.communicate(timeout=100)
    assert "stopped by SIGTERM at iteration" in error, error
    latest = tmp_path / "stopped/demo/hrnet_tiny_ocr_latest.pth"
    iteration = read_checkpoint(latest).content["iteration"]
    assert 0 < iteration < 400
    shorter = [*long, f"train.max_iters={iteration + 3}"]
    assert f"at iteration {iteration}" in finish(training(ONE, *small(overrides, tmp_path / "stopped", *shorter)))
    assert read_checkpoint(latest).content["iteration"] == iteration + 3


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "kills"), [(ONE, 6), (TWO, 3)], ids=["one", "two"])
def test_killed_at_any_moment_it_ends_with_the_same_weights(processes, kills, training, overrides, tmp_path):
    """Every iteration writes a checkpoint, so that many of the moments are within the writing."""
    length = ["train.max_iters=200", "train.val_interval=200"]
    finish(training(processes, *small(overrides, tmp_path / "whole", *length)))
    options = small(overrides, tmp_path / "parts", *length)
    rng = np.random.default_rng(len(processes))
    starts = tmp_path / "runs/demo/hrnet_tiny_ocr/starts.jsonl"
    killed = 0
    while killed < kills:
        starts.unlink(missing_ok=True)
        process = training(processes, *options)
        wait_for(starts, process)
        if process.poll() == 0:  # a fast machine
            break
        time.sleep(rng.uniform(0, 0.6))
        os.killpg(process.pid, signal.SIGKILL)  # the processes of torchrun have groups of their own
        process.communicate()
        killed += 1
    assert killed >= kills // 2
    finish(training(processes, *options))
    name = "demo/hrnet_tiny_ocr_latest.pth"
    check_equal(tmp_path / "whole" / name, tmp_path / "parts" / name)
    assert not list((tmp_path / "parts/demo").glob(".*.part.pth"))


def test_the_error_of_a_process_is_shown_and_ends_all(training, overrides, data_root, tmp_path):
    broken = tmp_path / "data/demo"
    for split in ("train", "val"):
        for kind in ("image", "label"):
            (broken / split / kind).mkdir(parents=True)
            for path in (data_root / "demo" / split / kind).iterdir():
                (broken / split / kind / path.name).symlink_to(path)
    options = ["--config", SEMANTIC, *overrides, f"data.root={tmp_path / 'data'}", "train.max_iters=100000"]
    options += ["train.val_interval=100000", "train.save_interval=100000", "--checkpoints", tmp_path / "checkpoints"]
    process = training(TWO, *options)
    wait_for(tmp_path / "runs/demo/hrnet_tiny_ocr/starts.jsonl", process)
    victim = next((broken / "train/image").iterdir())
    content = victim.read_bytes()
    victim.unlink()
    victim.write_bytes(content[:1000])
    _, error = process.communicate(timeout=100)
    assert process.returncode != 0
    line = next(line for line in error.splitlines() if line.startswith("error: process "))
    assert victim.name in line and "of 2" in line, error


def test_a_batch_that_cannot_be_shared_is_refused(training, overrides):
    process = training(TWO, "--config", SEMANTIC, *overrides, "train.batch_size=3")
    _, error = process.communicate(timeout=100)
    assert "train.batch_size=3 cannot be shared equally by 2 processes" in error


def test_every_process_takes_its_own_gpu(monkeypatch):
    """On a machine without GPUs, whose answers are given in place of CUDA's."""
    chosen = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch, "empty", lambda *_, **__: None)
    assert pick_device("auto") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device("cuda") == torch.device("cuda", 1)
    assert chosen == [torch.device("cuda", 0), torch.device("cuda", 1)]
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ConfigError, match="NPROC=2"):
        pick_device("auto")
