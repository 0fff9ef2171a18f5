"""What openseg benchmark measures."""

import json
from pathlib import Path

import pytest
from conftest import ROOT
from test_train import CONFIGS


@pytest.mark.parametrize("what", CONFIGS)
def test_benchmark_says_where_the_time_goes(what, command, overrides, capsys):
    options = ["--config", ROOT / CONFIGS[what], *overrides, "--iterations", "2", "--warm-up", "1", "--json", "a.json"]
    assert command("benchmark", *options, *(["--random-data"] if what == "semantic" else [])) == 0
    output = capsys.readouterr().out
    found = json.loads(Path("a.json").read_text())
    for part in ("load", "forward", "backward", "optimizer", "post"):
        assert part in output
    assert found["training"]["backward"] > 0 and found["prediction"]["forward"] > 0


@pytest.mark.slow
def test_the_questions_to_a_gpu_can_be_asked(run, tmp_path):
    """On a CPU, at a tiny size; and a part that takes too long is stopped and named."""
    file = tmp_path / "gpu.json"
    done = run("benchmarks/gpu.py", "--dry", "--json", file)
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    parts = ["tests", "inference", "segfix", "refiner", "agreement", "feeding", "training", "compiled"]
    assert list(figures) == ["machine", *parts]
    assert all(figures[name] for name in parts[:-1])  # compiling takes minutes
    assert {row["way"] for row in figures["inference"]} == {"plain", "fp32", "bf16", "tf32"}
    done = run("benchmarks/gpu.py", "--dry", "--json", file, "--parts", "training", "segfix", "--minutes", "0.02")
    assert done.returncode == 1 and "failed: training, segfix" in done.stderr
    assert "stopped after 1 s" in json.loads(file.read_text())["training"][-1]["error"]
