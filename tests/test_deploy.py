"""docs/deploy.md: every command is run, and its program without openseg gives the labels that openseg gives."""

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import numpy as np
import pytest
from conftest import ROOT, require_onnx
from PIL import Image
from test_docs import blocks
from test_exported import require, stem_network

import openseg

PAGE = ROOT / "docs/deploy.md"
ONE_THREAD = {**os.environ, "OMP_NUM_THREADS": "1"}
DEMO = "configs/demo/hrnet_tiny_ocr"


def lines():
    for block in blocks(PAGE, "bash"):
        yield from block.replace("\\\n", " ").splitlines()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.slow
def test_every_command(tmp_path, data_root):
    """With a smaller network, which the exporter is done with in seconds, in the place of the demo's."""
    require_onnx()
    for package, extra in (("nncf", "int8"), ("openvino", "openvino"), ("fastapi", "serve")):
        require(package, extra)
    for name in ("main.py", "lib", "benchmarks"):
        (tmp_path / name).symlink_to(ROOT / name)
    stem_network(tmp_path)
    shutil.copytree(data_root / "demo", tmp_path / "data/demo")
    image = min((data_root / "demo/val/image").iterdir())
    shutil.copy(image, tmp_path / "image.png")
    port, server, ran = str(free_port()), None, 0
    try:
        for line in lines():
            if line.startswith(("pip install", "python lib/datasets/")):  # done, with fewer scenes
                continue
            small = line.replace(f"{DEMO}.yaml", "stem.yaml").replace(f"{DEMO}.safetensors", "stem.pth")
            words = shlex.split(small.replace("8000", port))
            words = [sys.executable, *words[1:]] if words[0] == "python" else words
            if "serve" in words:
                silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
                server = subprocess.Popen(words, cwd=tmp_path, env=ONE_THREAD, **silent)
                wait_for(f"http://127.0.0.1:{port}/health")
            else:
                how = {"capture_output": True, "text": True, "timeout": 300}
                done = subprocess.run(words, cwd=tmp_path, env=ONE_THREAD, **how)
                assert done.returncode == 0, (line, done.stdout[-500:], done.stderr[-2000:])
            ran += 1
    finally:
        if server is not None:
            server.kill()
    assert ran >= 16
    check_consumer(tmp_path)


def wait_for(address):
    for _ in range(100):
        try:
            return urllib.request.urlopen(address, timeout=5).read()
        except OSError:
            time.sleep(0.3)
    raise AssertionError(f"{address} does not answer")


def check_consumer(folder):
    program = re.search(r"<!-- consumer -->\n```python\n(.*?)^```", PAGE.read_text(), re.M | re.S).group(1)
    assert len(program.splitlines()) <= 40 and "openseg" not in program and "torch" not in program
    (folder / "consumer.py").write_text(program)
    words = [sys.executable, "-I", "consumer.py", "labels.onnx", "image.png", "colors.png"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    fitted = np.asarray(Image.open(folder / "image.png").convert("RGB").resize((512, 256)))
    predictor = openseg.Predictor(folder / "stem.yaml", folder / "stem.pth", device="cpu")
    expected = predictor(fitted)
    size = Image.open(folder / "image.png").size
    colors = np.asarray(Image.fromarray(expected.colors).resize(size, Image.Resampling.NEAREST))
    assert (np.asarray(Image.open(folder / "colors.png")) == colors).all(axis=2).mean() > 0.9999
    assert done.stdout.strip().split(", ")[0] in expected.dataset_info.classes
