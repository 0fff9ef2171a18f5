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
