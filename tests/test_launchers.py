"""Every launcher runs its modes on tiny data with its config shrunk by overrides, as a new user would run it."""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import ROOT

from openseg.cli.prepare import segfix_targets
from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.io.images import read_label, write_label
from openseg_demo.scenes import write_scene

LAUNCHERS = sorted(path.relative_to(ROOT) for path in ROOT.glob("scripts/*/**/run_*.sh"))
SHRINK = ["data.workers=0", "augment.crop_size=[64,64]", "train.max_iters=2", "train.batch_size=2"]
SHRINK += ["train.precision=fp32", "train.warmup_iters=0"]
SHRINK_SEMANTIC = ["test.ms.scales=[0.5, 1.0]", "model.head_channels=32", "model.key_channels=16"]
SHRINK_SEMANTIC += ["model.aux_channels=32"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Each built-in dataset: two images to train, one to validate, one to test, in the set's own ids."""
    root = tmp_path_factory.mktemp("data")
    street = root / "street"
    for index in range(3):
        write_scene((street / ("val" if index == 2 else "train"), index), (80, 112), seed=5)
    for name in DATASET_NAMES:
        info = get_dataset_info(name)
        folder = root / info.folder
        if folder.exists():  # the same images with other classes
            continue
        shutil.copytree(street, folder)
        for path in folder.rglob("label/*.png"):
            classes = get_dataset_info("demo").encode(read_label(path))
            write_label(path, info.decode(classes % info.num_classes))
        shutil.copytree(folder / "val/image", folder / "test/image")
    for name in ("cityscapes", "camvid"):
        rule = "clean" if name == "camvid" else "original"
        assert segfix_targets(["--datadir", str(root / name), "--rule", rule]) == 0
    assert segfix_targets(instances=True, argv=["--datadir", str(root / "cityscapes")]) == 0
    return root


def shrink(launcher):
    """Overrides, and the environment, that make a launcher's network and images small."""
    text = (ROOT / launcher).read_text()
    tiny = "resnet_tiny" if "_r_" in launcher.name else "hrnext_tiny" if "_hx_" in launcher.name else "hrnet_tiny"
    if "TASK=segfix" in text:
        return SHRINK, {"BACKBONE": tiny}
    fit = {"lip": ["data.size=[64,64]"]}
    fit |= {name: ["data.short_side=64"] for name in ("ade20k", "coco_stuff", "pascal_context")}
    return [*SHRINK, *SHRINK_SEMANTIC, f"model.backbone={tiny}", *fit.get(launcher.parts[1], [])], {}


def launcher_runs(data, environment):
    """Runs a launcher with an id that no real run has."""
    number = f"test{os.getpid()}"
    settings = {"PYTHON": sys.executable, "DATA_ROOT": str(data), "PRETRAINED_MODEL": "", "OMP_NUM_THREADS": "1"}

    def launch(launcher, mode, *arguments):
        command = ["bash", str(launcher), mode, number, *map(str, arguments)]
        everything = {**os.environ, **settings, **environment}
        result = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    return launch


def run_modes(launcher, data, folder):
    overrides, environment = shrink(launcher)
    launch = launcher_runs(data, environment)
    places = ["--checkpoints", folder / "checkpoints"]
    launch(launcher, "train", *overrides, *places, "--runs", folder / "runs")
    assert "complete" in launch(launcher, "resume", *overrides, *places, "--runs", folder / "runs")
    image = next((data / "cityscapes/val/image").iterdir()).stem
    if "segfix" in launcher.parts:
        for mode in ("segfix_pred_val", "segfix_pred_test", "segfix_simple_pred_val"):
            window = [] if "simple" in mode else ["test.window=[64,64]", "test.window_stride=null"]
            launch(launcher, mode, *overrides, *window, *places, "--out", folder / mode)
            assert (folder / mode / f"{image}.png").is_file()
        return
    info = get_dataset_info(launcher.parts[1])
    for mode, *scales in (
        ("val",),
        ("test", "ss"),
        ("test", "ms"),
        *([("val", "ms")] if info.name == "lip" else []),
    ):
        out = folder / "_".join([mode, *scales])
        printed = launch(launcher, mode, *scales, *overrides, *places, "--out", out)
        assert ("mIoU" in printed) == (mode == "val")
        label = read_label(out / "label" / f"{image}.png")
        assert label.shape == (80, 112)
        assert set(label.flat) <= set(info.ids)


@pytest.fixture(scope="module")
def runs(request, data, tmp_path_factory):
    """All wanted launchers, as many at a time as there are cores: what takes long is starting the processes."""
    wanted = [item for item in request.session.items if item.originalname == "test_modes"]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        launchers = [item.callspec.params["launcher"] for item in wanted]
        yield {each: pool.submit(run_modes, each, data, tmp_path_factory.mktemp("run")) for each in launchers}


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=str)
def test_modes(launcher, runs):
    runs[launcher].result()


def test_several_processes(data, tmp_path):
    launcher = "scripts/cityscapes/hrnet/run_h_48_d_4_ocr.sh"
    overrides, _ = shrink(Path(launcher))
    launch = launcher_runs(data, {"NPROC": "2"})
    places = ["--checkpoints", tmp_path / "checkpoints"]
    launch(launcher, "train", *overrides, *places, "--runs", tmp_path / "runs")
    (start,) = (tmp_path / "runs").rglob("starts.jsonl")
    assert json.loads(start.read_text())["processes"] == 2
    assert "mIoU" in launch(launcher, "val", *overrides, *places, "--out", tmp_path / "val")
    for variables, said in (({"NNODES": "2"}, "needs RDZV_ENDPOINT"), ({"NPROC": "two"}, "NPROC=two")):
        with pytest.raises(AssertionError, match=said):
            launcher_runs(data, variables)(launcher, "train", *overrides, *places)


@pytest.mark.parametrize("pair", ["camvid", "cityscapes"])
def test_labels_are_sharpened_by_the_offsets_of_the_pair(pair, data, tmp_path):
    """``segfix ID val`` and ``test`` after ``val`` and ``segfix_pred_*``, at the places that the launchers choose."""
    semantic, segfix = {
        "camvid": ("scripts/camvid/run_h_18_d_4_ocr.sh", "scripts/camvid/segfix/run_h_small_d_4_segfix.sh"),
        "cityscapes": (
            "scripts/cityscapes/hrnet/run_h_48_d_4_ocr.sh",
            "scripts/cityscapes/segfix/run_h_48_d_4_segfix.sh",
        ),
    }[pair]
    launch = launcher_runs(data, {"BACKBONE": "hrnet_tiny"})
    places = ["--checkpoints", tmp_path / "checkpoints"]
    small = [*SHRINK, "model.backbone=hrnet_tiny"]
    for launcher in (semantic, segfix):
        launch(launcher, "train", *small, *places, "--runs", tmp_path / "runs")
    launch(semantic, "val", *small, *places)
    launch(semantic, "test", *small, *places)
    for split in ("val", "test"):
        offsets = tmp_path / f"offsets_{split}"
        launch(segfix, f"segfix_pred_{split}", *small, *places, "--out", offsets)
        out = launch(semantic, "segfix", split, "--offset", offsets)
        assert ("change" in out) == (split == "val")
