"""What the documents say: links lead somewhere, commands are understood, messages exist, words are spelled right."""

import argparse
import ast
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from openseg.cli.main import make_parser as main_parser
from openseg.config import load_config
from openseg.io.images import write_image
from openseg.models.checkpoint.io import write_weights
from openseg.models.factory import build_model

ELSEWHERE = "extending.md", "quickstart.md", "deploy.md"
"""Pages whose Python is run by test_extending.py and test_deploy.py in processes of its own, or as a notebook."""
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "pretrained_model/README.md"])
IDS = [str(path.relative_to(ROOT)) for path in PAGES]
SHELL = {
    "export",
    "trap",
    "wait",
    "srun",
    "pip",
    "tensorboard",
    "mkdir",
    "cp",
    "ln",
    "torchrun",
    "unzip",
    "git",
    "cd",
    "diff",
    "sed",
    "curl",
}


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def commands(path):
    """The commands of a page's shell blocks, without comments and continued lines."""
    for block in blocks(path, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
                words.pop(0)
            if words:
                yield words


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_links_lead_to_files(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith(("http://", "https://", "#")):
            assert (path.parent / target.split("#")[0]).exists(), target


def test_every_page_is_reached_from_the_readme():
    linked = set(re.findall(r"\]\(([^)#]+)", (ROOT / "README.md").read_text()))
    assert {str(path.relative_to(ROOT)) for path in ROOT.glob("docs/*.md")} <= linked


HELP = {}
"""What programs say of themselves, each asked once."""


def understood(words, run):
    """Whether a program knows the options of a command and the config it names; programs of others pass."""
    program, *arguments = words
    if program in ("python", ".venv/bin/ruff", ".venv/bin/mypy") or program in SHELL:
        if program != "python" or not arguments:
            return
        program, *arguments = arguments
        if program == "-m":
            return
    if program == "bash":
        script, *arguments = arguments
        assert (ROOT / script).is_file(), script
        if script.count("/") > 1 and "help" not in arguments[:1]:
            dry = subprocess.run(
                ["bash", script, *arguments, "--dry-run"],
                cwd=ROOT,
                capture_output=True,
                text=True,
                env={"PATH": "/usr/bin:/bin", "PYTHON": "python"},
            )
            assert dry.returncode == 0, (words, dry.stderr)
            understood([word for word in shlex.split(dry.stdout) if word], run)
        return
    if program in ("main.py", "openseg"):
        known, rest = main_parser().parse_known_args(arguments)
        assert all("=" in word and not word.startswith("-") for word in rest), rest
        overrides = [word for word in [*getattr(known, "overrides", []), *rest] if not word.endswith(".yaml")]
        if getattr(known, "config", None) and (ROOT / known.config).is_file():
            load_config(ROOT / known.config, [each for each in overrides if "<" not in each])
        elif getattr(known, "config", None):
            assert not known.config.startswith("configs/"), known.config
        return
    assert (ROOT / program).is_file(), words
    options = {word.split("=")[0] for word in arguments if word.startswith("--")}
    sub = arguments[:1] if program == "segfix.py" and arguments and not arguments[0].startswith("-") else []
    key = (program, *sub)
    text = HELP[key] = HELP[key] if key in HELP else run(*key, "--help").stdout
    assert all(re.search(rf"{re.escape(option)}\b", text) for option in options), (words, options)


@pytest.mark.parametrize("path", PAGES, ids=IDS)
def test_commands_are_understood(path, run, capsys):
    for words in commands(path):
        words = words[: min((words.index(sign) for sign in ("|", ">", "2>&1") if sign in words), default=None)]
        try:
            understood(words, run)
        except (SystemExit, argparse.ArgumentError):
            pytest.fail(f"{' '.join(words)}: {capsys.readouterr().err}")


def test_the_table_of_keys_is_that_of_the_models(run):
    table = run("main.py", "config", "--keys").stdout  # in a process to which no test has added types
    assert (ROOT / "docs/configuration.md").read_text().endswith(table)
    assert len(table) > 10_000 and all(row.split("|")[4].strip() for row in table.splitlines())


def messages():
    """All texts of the programs; what is put into them stands as a blank."""
    texts = [(ROOT / "scripts/launcher.sh").read_text()]
    for path in (ROOT / "lib/openseg").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else " " for part in node.values]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def test_messages_of_the_troubleshooting_exist():
    rows = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/troubleshooting.md").read_text(), re.M)
    assert len(rows) >= 25
    known = messages()
    for row in rows:
        for fragment in re.findall(r"`([^`]+)`", row):
            assert fragment in known, fragment


def test_python_blocks_run(tmp_path, monkeypatch, data_root):
    """Of all pages in their order, in a folder that holds what they speak of."""
    for setting, name in (("cityscapes/hrnet48_ocr", "hrnet_w48_ocr_1"), ("camvid/hrnet18_ocr", "hrnet_w18_ocr_1")):
        config = load_config(ROOT / f"configs/{setting}.yaml")
        target = tmp_path / "checkpoints" / setting.split("/")[0] / f"{name}_latest.pth"
        target.parent.mkdir(parents=True)
        write_weights(target, build_model(config), config)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(data_root / "demo", tmp_path / "data/demo")
    street, ran = np.zeros((64, 96, 3), np.uint8), 0
    for path in PAGES:
        for block in blocks(path, "python") if path.name not in ELSEWHERE else ():
            write_image(tmp_path / "street.png", street)
            exec(compile(block, str(path), "exec"), {"images": torch.zeros(1, 3, 64, 96)})
            ran += 1
    assert ran >= 4


def test_words_are_spelled_right():
    words = "trian,clases,conveyer"  # mistakes that tests make, and a class of ADE20K
    places = [*IDS, "lib", "scripts", "tests", "benchmarks", "configs", "main.py", "segfix.py"]
    result = subprocess.run(
        [
            sys.executable,
            "-m",
            "codespell_lib",
            "--ignore-words-list",
            words,
            "--skip",
            "*.npz,*.png,__pycache__",
            *places,
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
