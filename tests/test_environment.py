"""Odd surroundings: full disks, streams of other encodings, names of all kinds, caches that are damaged."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import ROOT, require_onnx
from PIL import Image

from openseg.config import load_config
from openseg.models.checkpoint.io import write_weights
from openseg.models.factory import build_model

CONFIG = ROOT / "configs/demo/hrnet_tiny_ocr.yaml"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "w.pth"
    torch.manual_seed(0)
    config = load_config(CONFIG)
    write_weights(path, build_model(config).eval(), config)
    return path


def full_disk(limit):
    """No file may grow beyond ``limit`` bytes: writing ends as on a full disk."""

    def set_limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return set_limit


def film(path, frames=12):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (256, 128))
    for number in range(frames):
        writer.write(np.random.default_rng(number).integers(0, 256, (128, 256, 3), np.uint8))
    writer.release()
    return path


WRITING = {
    "safetensors": (["convert", "WEIGHTS", "out/w.safetensors"], 200_000),
    "pth": (["convert", "WEIGHTS", "out/w.pth"], 200_000),
    "pt2": (["export", "out/w.pt2", "--config", "CONFIG", "--checkpoint", "WEIGHTS"], 200_000),
    "onnx": (["export", "out/w.onnx", "--config", "CONFIG", "--checkpoint", "WEIGHTS"], 200_000),
    "labels": (
        ["predict", "IMAGES", "--config", "CONFIG", "--checkpoint", "WEIGHTS", "--out", "out", "data.workers=0"],
        3_000,
    ),
    "video": (["predict", "film.avi", "--config", "CONFIG", "--checkpoint", "WEIGHTS", "--out", "out"], 20_000),
    "val": (["val", "--config", "CONFIG", "--checkpoint", "WEIGHTS", "--out", "out", "ROOT", "data.workers=0"], 3_000),
}


@pytest.mark.parametrize("what", WRITING)
def test_a_full_disk_is_one_line_and_leaves_nothing_half(what, weights, data_root, tmp_path):
    if what == "onnx":
        require_onnx()
    arguments, limit = WRITING[what]
    names = {"WEIGHTS": weights, "CONFIG": CONFIG, "IMAGES": data_root / "demo/val/image"}
    names["ROOT"] = f"data.root={data_root}"
    film(tmp_path / "film.avi")
    command = [sys.executable, ROOT / "main.py", *(names.get(each, each) for each in arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT / "lib")}
    done = subprocess.run(
        list(map(str, command)),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=full_disk(limit),
        timeout=120,
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert len(errors) == 1 and "cannot write" in errors[0]
    left = [path for path in (tmp_path / "out").rglob("*") if ".part" in path.name or path.suffix in (".mp4", ".pt2")]
    assert left == []


def test_videos_go_by_their_content(tmp_path, weights, command, capsys):
    whole = film(tmp_path / "film.avi").read_bytes()
    Path("half.avi").write_bytes(whole[: len(whole) // 2])
    Path("list.mp4").write_text(f"#EXTM3U\n#EXTINF:1,\n{tmp_path / 'film.avi'}\n")
    Path("concat.mkv").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'film.avi'}\n")
    options = ["--config", CONFIG, "--checkpoint", weights, "--also", "none"]
    assert command("predict", "half.avi", *options, "--out", "half") == 1
    assert "of 12 frames" in capsys.readouterr().out
    for name in ("list.mp4", "concat.mkv"):
        assert command("predict", name, *options, "--out", f"out_{name}") == 2
        assert "not a video" in capsys.readouterr().err and not Path(f"out_{name}").exists()


@pytest.fixture
def labels(data_root, tmp_path):
    source = sorted((data_root / "demo/val/label").iterdir())[0]
    for folder in ("pred", "truth"):
        (tmp_path / folder).mkdir()

    def put(name):
        for folder in ("pred", "truth"):
            shutil.copy(source, os.path.join(os.fsencode(tmp_path / folder), os.fsencode(name)))  # noqa: PTH118

    return put


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "utf-8"])
def test_streams_of_any_encoding(encoding, labels, tmp_path, run):
    for name in ("漢字.png", os.fsdecode(b"a\xff.png")):
        labels(name)
    (tmp_path / "pred").rename(tmp_path / "予測")
    arguments = ["--dataset", "demo", "--pred", tmp_path / "予測", "--gt", tmp_path / "truth", "--per-image"]
    files = ["--json", tmp_path / "s.json", "--markdown", tmp_path / "s.md"]
    done = run("main.py", "evaluate", *arguments, *files, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "s.json").read_text())


def test_a_closed_stderr(run, tmp_path):
    code = "import os, sys; os.close(2); sys.stderr = None; sys.argv = ['main.py', 'evaluate', '--dataset', 'nothing', "
    code += "'--pred', 'x', '--gt', 'y']; from openseg.cli.main import main; sys.exit(main())"
    assert run("-c", code, env={"PYTHONPATH": str(ROOT / "lib")}).returncode == 2


def test_names_as_long_as_a_file_system_takes(tmp_path, weights, command):
    (tmp_path / "images").mkdir()
    name = "漢" * 80
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "images" / f"{name}.png")
    options = ["--config", CONFIG, "--checkpoint", weights, "--out", "out", "--also", "none"]
    assert command("predict", "images", *options) == 0
    assert (tmp_path / "out/label" / f"{name}.png").is_file()


def test_marks_of_the_template_in_names(labels, command, tmp_path):
    labels("{{ script }}.png")
    assert command("report", "pred", "--dataset", "demo", "--gt", "truth", "--out", "page") == 0
    page = (tmp_path / "page/index.html").read_text()
    data = page.split('type="application/json">')[1].split("</script>")[0]
    assert "{{ script }}" in data and json.loads(data)


def test_damaged_caches_of_compiled_code_are_left_aside(run, tmp_path):
    code = "import numpy as np; from openseg.segfix import refine; "
    code += "print(refine(np.zeros((8, 8), np.uint8), np.zeros((8, 8, 2), np.int8)).shape)"
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "numba"), "PYTHONPATH": str(ROOT / "lib")}
    assert run("-c", code, env=environment).returncode == 0
    kept = [path for path in (tmp_path / "numba").rglob("*") if path.is_file()]
    assert kept
    for path in kept:
        path.write_bytes(b"damaged")
    assert "(8, 8)" in run("-c", code, env=environment).stdout


def test_no_home(run):
    code = "import pathlib, sys\ndef nobody():\n    raise RuntimeError('no home')\npathlib.Path.home = nobody\n"
    code += f"sys.argv = ['main.py', 'val', '--config', {str(CONFIG)!r}]\n"
    code += "from openseg.cli.main import main\nsys.exit(main())"
    done = run("-c", code, env={"PYTHONPATH": str(ROOT / "lib")})
    assert done.returncode == 2 and "no checkpoint" in done.stderr and done.stderr.count("\n") == 1


def test_outputs_stay_inside_of_their_split(command, data_root, one_line_error):
    for name in ("../../evil", "/tmp/evil"):
        arguments = ["--datadir", data_root / "demo", "--dataset", "demo", "--outname", name]
        one_line_error(command("segfix-targets", *arguments), "--outname")
