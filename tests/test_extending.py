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
