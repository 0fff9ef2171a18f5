"""The programs at their documented paths, run as a new user would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

LAUNCHERS = sorted(path.relative_to(ROOT) for path in ROOT.glob("scripts/*/**/*.sh"))
TYPO_PATH = Path("scripts/coco_stuff/run_h_48_d_4_ocr_ohem/train.sh")  # the model zoo once named this one
PROGRAMS = [
    "main.py",
    "segfix.py",
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("lib/datasets/preprocess/*/*.py")),
    *sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("benchmarks/*.py") if p.name != "side_by_side.py"),
]


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


def test_help_of_subcommands(run, command, capsys):
    """Every option is explained, by the docstring of its keyword function or by the command."""
    overview = run("main.py", "--help").stdout
    names = re.findall(r"^    ([a-z][a-z-]+)(?: +\S|$)", overview, re.MULTILINE)
    assert len(names) >= 19 and {"train", "segfix", "evaluate"} <= {*names}
    for words in [[name] for name in names if name != "segfix"] + [["segfix", name] for name in ("refine", "tune")]:
        with pytest.raises(SystemExit, match="0"):
            command(*words, "--help")
        options = capsys.readouterr().out.partition("options:")[2]
        assert "--debug" in options
        explained = re.findall(r"^  (?:-h, )?(--[\w-]+)[^\n]*?(?:\n {10,}| {2,})\S", options, re.MULTILINE)
        assert explained == re.findall(r"^  (?:-h, )?(--[\w-]+)", options, re.MULTILINE), words


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
    assert result.returncode == 0 and "train ID" in result.stdout
    assert str(launcher) in result.stdout or launcher == TYPO_PATH
    assert bash(launcher, **environment).stdout == result.stdout
    for arguments in (["train"], ["nonsense", "1"]):
        result = bash(launcher, *arguments, **environment)
        assert result.returncode == 2 and "error:" in result.stderr


@pytest.mark.parametrize("launcher", ["lip/run_h_48_d_4_ocr_train.sh", "cityscapes/segfix/run_hx_20_d_2_segfix.sh"])
def test_launchers_say_which_checkpoint_is_missing(launcher, tmp_path):
    mode = "segfix_pred_val" if "segfix" in launcher else "val"
    environment = {"DATA_ROOT": str(tmp_path), "HOME": str(tmp_path), "PYTHON": sys.executable}
    result = bash(f"scripts/{launcher}", mode, "none", **environment)
    assert result.returncode == 2 and "_none_latest.pth" in result.stderr and "put a downloaded file" in result.stderr


@pytest.mark.parametrize("launcher", [path for path in LAUNCHERS if "cityscapes" in path.parts], ids=str)
def test_launchers_say_which_imagenet_file_is_missing(launcher):
    result = bash(launcher, "train", "none", PRETRAINED_MODEL="pretrained_model/none.pth")
    assert result.returncode == 2 and "pretrained_model/none.pth" in result.stderr
