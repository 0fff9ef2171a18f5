"""Three launchers run for real, all show their commands, and every config trains and predicts."""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import openseg
from openseg.cli.prepare import segfix_targets
from openseg.config import load_config
from openseg.datasets.registry import DATASET_NAMES, get_dataset_info
from openseg.io.images import read_label, write_label
from openseg_demo.scenes import write_scene

LAUNCHERS = {
    str(path.relative_to(ROOT)): name
    for path in sorted(ROOT.glob("scripts/*/**/run_*.sh"))
    for name in path.read_text().splitlines()
    if name.startswith("CONFIG=")
}
CONFIGS = sorted({name.removeprefix("CONFIG=") for name in LAUNCHERS.values()})
SHRINK = ["data.workers=0", "augment.crop_size=[64,64]", "train.max_iters=2", "train.batch_size=2"]
SHRINK += ["train.precision=fp32", "train.warmup_iters=0"]
OWN = ["model.backbone_options={}", "model.drop_path=null", "data.size=null", "data.cache_gb=0"]
"""Of another backbone than the tiny one, and of kept features, for which all images have one size."""
SHRINK_SEMANTIC = ["test.ms.scales=[0.5, 1.0]", "model.head_channels=32", "model.key_channels=16"]
SHRINK_SEMANTIC += ["model.aux_channels=32"]
FIT = {"lip": ["data.size=[64,64]"]}
FIT |= {name: ["data.short_side=64"] for name in ("ade20k", "coco_stuff", "pascal_context")}


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


def tiny(name):
    return "resnet_tiny" if "resnet" in name else "hrnext_tiny" if "hrnext" in name else "hrnet_tiny"


@pytest.mark.parametrize("path", CONFIGS)
def test_every_config_trains_and_predicts(path, data, tmp_path):
    config = load_config(ROOT / path)
    overrides = [*SHRINK, f"data.root={data}", f"model.backbone={tiny(path)}", *FIT.get(config.data.dataset, [])]
    places = {"checkpoints": tmp_path, "progress": False}
    if config.task == "segfix":
        openseg.train(ROOT / path, overrides=overrides, runs=tmp_path, **places)
        window = ["test.window=[64,64]", "test.window_stride=null"]
        result = openseg.predict_offsets(ROOT / path, overrides=overrides + window, out=tmp_path / "out", **places)
        assert result.images == 1 and len([*(tmp_path / "out").glob("*.png")]) == 1
        return
    if config.task == "refiner":
        overrides = [each for each in overrides if "backbone" not in each]
        kind = {"data.train_split": "train", "data.val_split": "val"}
        overrides += [f"{key}={value}" for key, value in kind.items()]
        trained = openseg.train(ROOT / path, overrides=overrides, runs=tmp_path, **places)
        assert 0 < trained.scores["mIoU before"] < 1
        split = data / "demo/val"
        openseg.refine(
            split / "label", images=split / "image", checkpoint=trained.checkpoint, split="test", out=tmp_path / "out"
        )
        assert len([*(tmp_path / "out").glob("*.png")]) == 1
        return
    overrides += SHRINK_SEMANTIC + (OWN if "timm:" in (ROOT / path).read_text() else [])
    openseg.train(ROOT / path, overrides=overrides, runs=tmp_path, **places)
    for mode in ("ss", "ms"):
        out = tmp_path / mode
        result = openseg.validate(ROOT / path, overrides=overrides, mode=mode, also=(), out=out, **places)
        (label,) = result.labels.iterdir()
        assert set(read_label(label).flat) <= set(config.dataset_info.ids)
        assert (
            result.scores.compute()["mIoU"]
            == json.loads((out / "scores.json").read_text())[config.name]["summary"]["mIoU"]
        )


def dry_run(launcher, mode, *arguments, **environment):
    """The words of the command that a mode would run."""
    command = ["bash", str(launcher), mode, "7", *arguments, "--dry-run"]
    everything = {key: value for key, value in os.environ.items() if key not in ("PRETRAINED_MODEL", "BACKBONE")}
    everything |= {"PYTHON": "python", "DATA_ROOT": "/data", "NPROC": "1", **environment}
    result = subprocess.run(command, cwd=ROOT, env=everything, capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    return shlex.split(result.stdout)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_the_commands_say_what_the_config_says(launcher):
    path = LAUNCHERS[launcher].removeprefix("CONFIG=")
    config = load_config(ROOT / path)
    known, name = config.published, f"{config.name}_7"
    start = ["--config", path, f"name={name}", "data.root='/data'"]
    if config.task == "segfix":
        start.append(f"model.backbone={config.model.backbone}")
    weights = [f"model.pretrained='./{known.pretrained}'"] if known.pretrained else []
    assert dry_run(launcher, "train", "train.lr=1") == ["python", "main.py", "train", *start, *weights, "train.lr=1"]
    assert dry_run(launcher, "train", PRETRAINED_MODEL="") == ["python", "main.py", "train", *start]
    assert dry_run(launcher, "resume") == ["python", "main.py", "resume", *start]
    if config.task == "segfix":
        for split in ("val", "test"):
            out = f"offset_pred/{split}/{known.offsets}"
            command = ["python", "main.py", "offsets", *start, "--split", split, "--out", out]
            assert dry_run(launcher, f"segfix_pred_{split}") == command
            command = [*command[:-1], f"{out}_simple", "test.window=null"]
            assert dry_run(launcher, f"segfix_simple_pred_{split}") == command
        other = dry_run(launcher, "segfix_pred_val", "file.pth", BACKBONE="hrnet32")
        assert other[-2:] == ["--checkpoint", "file.pth"] and "model.backbone=hrnet32" in other
        assert f"name={name.replace(config.model.backbone, 'hrnet32')}" in other
        return
    if config.task == "refiner":
        checkpoint = f"checkpoints/{config.data.dataset}/{name}_latest.pth"
        command = [
            "python",
            "segfix.py",
            "--input",
            "a",
            "--images",
            "b",
            "--checkpoint",
            checkpoint,
            "--keep-thin",
            "5",
        ]
        assert dry_run(launcher, "refine", "a", "b", "--keep-thin", "5") == command
        return
    assert dry_run(launcher, "val") == ["python", "main.py", "val", *start, "--mode", "ss"]
    assert dry_run(launcher, "test", "ms") == ["python", "main.py", "test", *start, "--mode", "ms"]
    if known.segfix_scale:
        for split, folder in (("val", "val"), ("test", "test_ss")):
            labels = f"/data/seg_result/{config.data.dataset}/{name}_{folder}/label"
            command = ["python", "segfix.py", "--input", labels, "--split", split, "--dataset", config.data.dataset]
            command += ["--scale", str(known.segfix_scale), *known.segfix_options.split()]
            assert dry_run(launcher, "segfix", split) == command


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


@pytest.mark.slow
def test_several_processes(data, tmp_path):
    launcher = "scripts/lip/run_h_48_d_4_ocr_train.sh"
    overrides = [*SHRINK, *SHRINK_SEMANTIC, "model.backbone=hrnet_tiny", *FIT["lip"]]
    launch = launcher_runs(data, {"NPROC": "2"})
    places = ["--checkpoints", tmp_path / "checkpoints"]
    launch(launcher, "train", *overrides, *places, "--runs", tmp_path / "runs")
    (start,) = (tmp_path / "runs").rglob("starts.jsonl")
    assert json.loads(start.read_text())["processes"] == 2
    assert "mIoU" in launch(launcher, "val", "ms", *overrides, *places, "--out", tmp_path / "val")
    for variables, said in (({"NNODES": "2"}, "needs RDZV_ENDPOINT"), ({"NPROC": "two"}, "NPROC=two")):
        with pytest.raises(AssertionError, match=said):
            launcher_runs(data, variables)(launcher, "train", *overrides, *places)


@pytest.mark.slow
def test_labels_are_refined_by_the_offsets_of_the_pair(data, tmp_path):
    """``segfix ID val`` and ``test`` after ``val`` and ``segfix_pred_*``, at the places that the launchers choose."""
    semantic, segfix = (
        Path("scripts/cityscapes/hrnet/run_h_48_d_4_ocr.sh"),
        Path("scripts/cityscapes/segfix/run_h_48_d_4_segfix.sh"),
    )
    launch = launcher_runs(data, {"BACKBONE": "hrnet_tiny"})
    places = ["--checkpoints", tmp_path / "checkpoints"]
    small = [*SHRINK, "model.backbone=hrnet_tiny"]
    for launcher in (semantic, segfix):
        launch(launcher, "train", *small, *places, "--runs", tmp_path / "runs")
        assert "complete" in launch(launcher, "resume", *small, *places, "--runs", tmp_path / "runs")
    launch(semantic, "val", *small, *places)
    launch(semantic, "test", *small, *places)
    for split in ("val", "test"):
        offsets = tmp_path / f"offsets_{split}"
        launch(segfix, f"segfix_pred_{split}", *small, *places, "--out", offsets)
        out = launch(semantic, "segfix", split, "--offset", offsets)
        assert ("change" in out) == (split == "val")
