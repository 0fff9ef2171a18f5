"""What an outsider writes: the files and commands of docs/extending.md, and the table "to add X, touch Y"."""

import json
import re
import shlex
import shutil

import pytest
from conftest import ROOT

TEXT = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
(COMMANDS,) = re.findall(r"```bash\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.fixture
def folder(tmp_path, data_root):
    shutil.copytree(data_root / "demo", tmp_path / "data/demo")
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    return tmp_path


def test_files_of_ten_lines_add_one_of_each(folder, run):
    modules = [name for name in FILES if name.endswith(".py")]
    assert len(modules) == 5
    assert all(len([line for line in FILES[name].splitlines() if line.strip()]) <= 10 for name in modules)
    out = folder / "data/seg_result/demo/mine_val"
    printed = []
    for line in COMMANDS.splitlines():
        words = shlex.split(line)[1:]
        extra = ["--json", "evaluated.json", "--workers", "2"] if words[1] == "evaluate" else []
        extra += ["data.workers=1"] if words[1] == "train" else []  # a worker process must know the transform too
        result = run(ROOT / words[0], *words[1:], *extra, cwd=folder)
        assert result.returncode == 0, f"{line}\n{result.stdout}\n{result.stderr}"
        printed.append(result.stdout)
    (log,) = (folder / "runs").rglob("metrics.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (trained,) = (line["val"]["error rate"] for line in lines if "val" in line)
    (validated,) = json.loads((out / "scores.json").read_text()).values()
    (evaluated,) = json.loads((folder / "evaluated.json").read_text()).values()
    reported = re.search(r'"error rate":([\d.]+)', (out / "report/index.html").read_text())[1]
    assert 0 < trained < 1
    assert trained == validated["summary"]["error rate"] == evaluated["summary"]["error rate"] == float(reported)
    assert all(re.search(rf"error rate +{100 * trained:.2f}", text) for text in printed[1:])


CODE = """
import sys, torch, openseg
sys.path.insert(0, sys.argv[1])
try:
    openseg.load_model("mine.yaml", sys.argv[2], ["plugins=[]"])
except openseg.ConfigError as error:
    assert "gray" in str(error) and "plugins" in str(error), error
else:
    raise SystemExit("loaded")
assert not [name for name in sys.modules if name.startswith("my_")]
import my_backbone, my_head, my_loss, my_transform, my_metric
print(openseg.load_model("mine.yaml", sys.argv[2])(torch.zeros(1, 3, 64, 64)).logits.shape)
"""


def test_a_checkpoint_imports_nothing(folder, run):
    result = run(ROOT / "main.py", "train", "--config", "mine.yaml", "train.max_iters=1", cwd=folder)
    assert result.returncode == 0, result.stderr
    path = folder / "checkpoints/demo/mine_latest.pth"
    result = run("-c", CODE, folder, path, cwd=folder, env={"PYTHONPATH": str(ROOT / "lib"), "PYTHONSAFEPATH": "1"})
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("torch.Size([1, 19, 8, 8])\n")


def test_what_a_foreign_module_cannot_do_is_said(folder, command, one_line_error):
    for setting, *words in (
        ("train.grad_checkpointing=true", "MyBackbone", "set_grad_checkpointing"),
        ("metrics=[error_rat]", "error_rat", "error_rate"),
        ("loss.1.gama=2", "loss", "gama"),
        ("plugins=[my_other]", "my_other"),
    ):
        code = command("train", "--config", folder / "mine.yaml", f"data.root={folder / 'data'}", setting)
        one_line_error(code, *words)


PLUGIN = """
from __future__ import annotations
from typing import TYPE_CHECKING
import numpy as np
import openseg
if TYPE_CHECKING:
    from torch import Tensor

@openseg.register_loss("tenth")
def tenth(logits: Tensor, labels: Tensor, factor: float = 0.1):
    return factor * logits.square().mean()

@openseg.register_metric("counts")
class Counts:
    def __init__(self, info): self.total = np.int64(0)
    def update(self, prediction, target): self.total += (target != 255).sum()
    def merge(self, other): self.total += other.total
    def compute(self): return {"counted": self.total, "half": np.float32(0.5)}

@openseg.register_metric("thief")
class Thief(Counts):
    def compute(self): return {"mIoU": 0.123}

@openseg.register_loss("shadow")
def shadow(logits, labels, weight: float = 3.0):
    return weight * logits.mean()
"""


@pytest.fixture
def odd(tmp_path, overrides):
    """A training whose plugin lies beside the config, in a folder of its own."""
    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/odd_plugin.py").write_text(PLUGIN)
    path = tmp_path / "settings/odd.yaml"
    text = (ROOT / "configs/demo/hrnet_tiny_ocr.yaml").read_text()
    path.write_text(f"plugins: [odd_plugin]\nmetrics: [counts]\n{text}")
    more = ["loss=[{type: ce}, {type: tenth, factor: 0.2}]", "augment.transforms=[{type: color_jitter}]"]
    return ["--config", path, *overrides, *more]


def test_a_training_with_everything_registered_is_resumed_checked_and_reported(odd, run, tmp_path, data_root):
    for command in ("train", "resume"):
        result = run(
            ROOT / "main.py", command, *odd, "train.max_iters=" + str(2 + 2 * (command == "resume")), cwd=tmp_path
        )
        assert result.returncode == 0, result.stderr
    assert "counted" in result.stdout and "half 0.5000" in result.stdout
    result = run(ROOT / "main.py", "check", *odd, "--workers", 2, cwd=tmp_path)
    assert "0 errors" in result.stdout, result.stderr
    assert run(ROOT / "main.py", "val", *odd, "--out", "out", "--also", "none", cwd=tmp_path).returncode == 0
    result = run(ROOT / "main.py", "val", *odd, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    result = run(ROOT / "main.py", "report", "runs/demo/hrnet_tiny_ocr", cwd=tmp_path)
    assert result.returncode == 0 and "half" in result.stdout, result.stderr


def test_what_cannot_be_registered_is_said_at_once(odd, command, one_line_error):
    one_line_error(command("train", *odd, "metrics=[thief]"), "mIoU")
    one_line_error(command("train", *odd, "loss=[shadow]"), "shadow", "weight")
    one_line_error(command("train", *odd, "metrics=[cuonts]"), "metrics", "counts")
