"""The programs at their documented paths, run as a new user would."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT

LAUNCHERS = sorted(path.relative_to(ROOT) for path in ROOT.glob("scripts/*/**/run_*.sh"))
PROGRAMS = [
    "main.py",
    "segfix.py",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("lib/datasets/preprocess/*/*.py")),
]
SUBCOMMANDS = ["train", "resume", "val", "test", "offsets", "evaluate", "config"]


def bash(*arguments, **environment):
    return subprocess.run(
        ["bash", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_of_programs(program, run):
    result = run(program, "--help")
    assert result.returncode == 0 and "usage:" in result.stdout and result.stderr == ""


def test_help_of_subcommands(run):
    overview = run("main.py", "--help").stdout
    for name in SUBCOMMANDS:
        assert f"\n    {name}" in overview
        result = run("main.py", name, "--help")
        assert result.returncode == 0 and "--" in result.stdout, result.stderr


@pytest.mark.slow
def test_the_demo_runs_twice():
    environment = {"VIRTUAL_ENV": sys.prefix, "OMP_NUM_THREADS": "1"}
    folder = ROOT / "runs/demo" / f"quick_{os.getpid()}"
    try:
        for _ in range(2):
            result = bash("scripts/demo.sh", "--quick", "--seed", os.getpid(), **environment)
            assert result.returncode == 0, result.stderr
            assert "boundary F 1 px" in result.stdout and "The demo took" in result.stdout
        assert "training is complete" in result.stdout and "0 of 4 written" in result.stdout
        assert len(list(folder.glob("data/seg_result/demo/*/label_w_segfix_figures/*.png"))) == 3
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.parametrize("launcher", LAUNCHERS, ids=str)
def test_launchers_explain_themselves(launcher, tmp_path):
    environment = {"DATA_ROOT": str(tmp_path), "HOME": str(tmp_path)}
    result = bash(launcher, "help", **environment)
    assert result.returncode == 0 and str(launcher) in result.stdout and "train ID" in result.stdout
    assert bash(launcher, **environment).stdout == result.stdout
    for arguments in (["train"], ["nonsense", "1"]):
        result = bash(launcher, *arguments, **environment)
        assert result.returncode == 2 and "error:" in result.stderr
    mode = "segfix_pred_val" if "segfix" in launcher.parts else "val"
    result = bash(launcher, mode, "none", **environment, PYTHON=sys.executable)
    assert result.returncode == 2 and "_none_latest.pth" in result.stderr and "put a downloaded file" in result.stderr


@pytest.mark.parametrize("launcher", [path for path in LAUNCHERS if "cityscapes" in path.parts], ids=str)
def test_launchers_say_which_imagenet_file_is_missing(launcher):
    result = bash(launcher, "train", "none", PRETRAINED_MODEL="pretrained_model/none.pth")
    assert result.returncode == 2 and "pretrained_model/none.pth" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["camvid", "cityscapes"])
def test_the_launcher_pair_runs_every_mode(dataset, data_root, tmp_path):
    """On rendered scenes, with a small network and few iterations."""
    from openseg.catalog import get_catalog
    from openseg.files import read_label, write_label

    root = tmp_path / "data"
    shutil.copytree(data_root / "demo", root / dataset)
    if dataset == "camvid":
        for path in root.rglob("label/*.png"):
            write_label(path, get_catalog("cityscapes").encode(read_label(path)) % 11)
        for path in root.rglob("offset_gt/*/*.mat"):
            path.unlink()
        generator = "lib/datasets/preprocess/cityscapes/dt_offset_generator.py"
        subprocess.run([sys.executable, generator, "--datadir", root / dataset], cwd=ROOT, check=True)
    shutil.copytree(root / dataset / "val/image", root / dataset / "test/image")
    semantic, segfix = (
        ("scripts/camvid/run_h_18_d_4_ocr.sh", "scripts/camvid/segfix/run_h_18_d_4_segfix.sh")
        if dataset == "camvid"
        else ("scripts/cityscapes/hrnet/run_h_48_d_4_ocr.sh", "scripts/cityscapes/segfix/run_h_48_d_4_segfix.sh")
    )
    run_id = f"test{os.getpid()}"
    environment = {
        "DATA_ROOT": str(root),
        "PYTHON": sys.executable,
        "BACKBONE": "hrnet_tiny",
        "PRETRAINED_MODEL": "",
    }
    environment["OMP_NUM_THREADS"] = "1"
    folders = [ROOT / "checkpoints", ROOT / "runs", ROOT / "offset_pred"]
    shrink = [
        "--checkpoints",
        tmp_path / "checkpoints",
        "augment.crop_size=[64,64]",
        "train.max_iters=2",
        "data.workers=1",
    ]
    shrink += ["train.batch_size=2", "train.precision=fp32", "train.warmup_iters=0"]

    def launch(launcher, *arguments):
        result = bash(launcher, *arguments, **environment)
        assert result.returncode == 0, f"{launcher} {arguments}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    try:
        for launcher in (semantic, segfix):
            launch(launcher, "train", run_id, *shrink, "--runs", tmp_path / "runs")
            assert "complete" in launch(launcher, "resume", run_id, *shrink, "--runs", tmp_path / "runs")
        assert "mIoU" in launch(semantic, "val", run_id, *shrink)
        launch(semantic, "test", run_id, "ss", *shrink)
        for split in ("val", "test"):
            offsets = tmp_path / f"offsets_{split}"
            launch(segfix, f"segfix_pred_{split}", run_id, *shrink, "--out", offsets)
            out = launch(semantic, "segfix", run_id, split, "--offset", offsets)
            assert ("change" in out) == (split == "val")
    finally:
        assert [path for folder in folders for path in folder.rglob(f"*{run_id}*")] == []
