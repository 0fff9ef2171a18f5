import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
import scale_recipe
import torch

import openseg
from openseg.cli.main import main
from openseg.io.images import read_label, write_label
from openseg.segfix.offset_files import write_offsets
from openseg_demo.scenes import write_scene

ROOT = Path(__file__).resolve().parents[1]
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)


def pytest_collection_modifyitems(items):
    """Files that take long come first, so that two processes end at about the same time."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: (-slow[item.path], item.path))


@pytest.fixture(autouse=True)
def _on_the_cpu(request, monkeypatch):
    """Only tests marked gpu use a GPU: resuming, for example, is exact on a CPU without further options."""
    if torch.cuda.is_available() and not request.node.get_closest_marker("gpu"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """A data root with six rendered scenes of 128x256, four to train and two to validate, and SegFix ground truth."""
    from openseg.cli.prepare import segfix_targets

    root = tmp_path_factory.mktemp("data")
    for index in range(6):
        write_scene((root / "demo" / ("train" if index < 4 else "val"), index), (128, 256), seed=7)
    assert segfix_targets(["--datadir", str(root / "demo")]) == 0
    return root


@pytest.fixture(scope="module")
def maps(tmp_path_factory):
    """Labels with ground truth and offsets in two folders, and what the local command makes of them."""
    root = tmp_path_factory.mktemp("maps")
    rng = np.random.default_rng(0)
    for number in range(scale_recipe.COUNT):
        name = f"{'ab'[number % 2]}/f{number:03d}.png"
        truth = np.kron(rng.integers(0, 11, (4, 6)), np.ones((10, 10))).astype(np.uint8)
        write_label(root / "truth" / name, truth)
        write_label(root / "label" / name, np.where(rng.random(truth.shape) < 0.1, 3, truth).astype(np.uint8))
        write_offsets(root / "offset" / name, rng.integers(-1, 2, (*truth.shape, 2)).astype(np.int8))
    openseg.refine(root / "label", offsets=root / "offset", out=root / "local", **scale_recipe.HOW, split="test")
    return root


REPORTED = ["a", "b", "<b>c & 'd'"]
"""Names of the images in ``folders``."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three scenes, labels that are wrong in places, and others that are wrong in other places."""
    root = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for index, name in enumerate(REPORTED):
        write_scene((root / "scenes/val", index), (96, 160), seed=3)
        for kind in ("image", "label"):
            source = sorted((root / "scenes/val" / kind).glob("*.png"))[0]
            (root / "data/demo/val" / kind).mkdir(parents=True, exist_ok=True)
            shutil.move(source, root / "data/demo/val" / kind / f"{name}.png")
        truth = read_label(root / "data/demo/val/label" / f"{name}.png")
        for place, folder in enumerate(("label", "label_w_segfix")):
            wrong = cv2.dilate(
                (rng.random(truth.shape) < (0.03, 0.01 * index)[place]).astype(np.uint8), np.ones((5, 5))
            )
            labels = np.where(wrong, np.roll(truth, 20, axis=1), truth)
            write_label(root / "result" / folder / f"{name}.png", labels)
    return root


def data_of(path):
    """What the page of a report holds as JSON."""
    return json.loads(re.search(r'type="application/json">(.*)</script>', path.read_text())[1])


def require_onnx():
    """onnxruntime; skips the test where ONNX cannot be written."""
    if torch.__version__ < "2.7":
        pytest.skip("ONNX export needs PyTorch 2.7 or newer")
    return pytest.importorskip("onnxruntime", reason="pip install openseg[export]")


def varied(model):
    """``model`` with random weights that keep signals as large as they are, so that its predictions differ by pixel."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                torch.nn.init.zeros_(layer.bias)
    return model


@pytest.fixture
def overrides(data_root):
    """Shrinks a config to seconds."""
    return [
        f"data.root={data_root}",
        "data.workers=0",
        "augment.crop_size=[64,64]",
        "train.max_iters=4",
        "train.batch_size=2",
        "train.warmup_iters=0",
        "train.val_interval=4",
        "train.save_interval=2",
        "train.log_interval=1",
    ]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Runs main.py's command in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: main([str(argument) for argument in arguments])


@pytest.fixture
def run():
    """Runs a program as a user would, from the checkout; returns the completed process."""

    def start(*arguments, **options):
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=options.pop("cwd", ROOT),
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            **options,
        )

    return start


@pytest.fixture
def one_line_error(capsys):
    """Asserts that a command failed with one line on stderr that holds all the given words; returns it."""

    def check(code, *words):
        error = capsys.readouterr().err
        assert code == 2, error
        assert error.startswith("error: ") and error.count("\n") == 1, error
        for word in words:
            assert str(word) in error, error
        return error

    return check


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge")


@pytest.fixture(scope="module")
def chromium():
    sync_api = pytest.importorskip("playwright.sync_api", reason="pip install openseg[test] brings Playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_api.sync_playwright() as playwright:
        if found is None and not Path(playwright.chromium.executable_path).exists():
            pytest.skip("no Chromium here: playwright install chromium, or the system's package")
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield browser
        browser.close()
