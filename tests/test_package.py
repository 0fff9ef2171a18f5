"""What importing costs and touches."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image


def test_segfix_and_metrics_need_no_torch(run):
    code = "import sys, openseg.segfix, openseg.metrics; sys.exit(any(m.split('.')[0] == 'torch' for m in sys.modules))"
    assert run("-c", code).returncode == 0


def test_segfix_command_needs_no_torch(run):
    code = "import sys, openseg.cli.segfix, openseg.tools.scoring; sys.exit('torch' in sys.modules)"
    assert run("-c", code).returncode == 0


def test_the_preparation_programs_shadow_no_package_named_datasets(run, tmp_path):
    (tmp_path / "datasets").mkdir()
    (tmp_path / "datasets/__init__.py").write_text("name = 'another package'")
    code = f"import sys; sys.path.insert(0, '{ROOT}/lib'); import datasets; print(datasets.name)"
    assert run("-c", code, env={"PYTHONPATH": str(tmp_path)}).stdout.strip() == "another package"


def test_the_library_reads_no_environment_but_torchruns_and_never_exits():
    names = r"\"(WORLD_SIZE|LOCAL_RANK|RANK)\""
    torchrun = re.compile(
        rf"os\.environ(\.get\(|\[){names}|{names} (not )?in os\.environ|os\.environ\.setdefault\(\"CUBLAS"
    )
    forbidden = re.compile(r"os\.environ|getenv|sys\.exit\(|(?<![\w.])exit\(|breakpoint\(|SystemExit")
    leaving = []
    for path in (ROOT / "lib/openseg").rglob("*.py"):
        text = path.read_text()
        if path.name == "distributed.py":
            text = torchrun.sub("", text)
        if path.name == "limits.py":  # a limit that worker processes must share
            text = text.replace('os.environ.get("OPENSEG_MAX_PIXELS"', "")
        assert not forbidden.search(text), path
        leaving += [path.relative_to(ROOT / "lib/openseg").as_posix()] * text.count("os._exit(")
    # Workers whose parent is gone, a process whose torchrun is gone, and the end of a process of several.
    assert sorted(leaving) == ["distributed.py", "distributed.py", "io/parallel.py"]


def test_the_wheel_holds_everything(tmp_path):
    """Built from the source distribution and installed elsewhere: configs, weights, page and types are inside."""
    pytest.importorskip("build", reason="pip install openseg[test]")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = tmp_path / "source"
    for name in ("lib", "configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in (
        "pyproject.toml",
        "setup.py",
        "requirements.txt",
        "README.md",
        "LICENSE",
        "MANIFEST.in",
        "CHANGELOG.md",
    ):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path / "dist"), str(source)]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    files = [*(tmp_path / "dist").iterdir()]
    check = [sys.executable, "-m", "twine", "check", "--strict", *map(str, files)]
    done = subprocess.run(check, capture_output=True, text=True)
    assert len(files) == 2 and done.stdout.count("PASSED") == 2, done.stdout + done.stderr
    (built,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(tmp_path / "site"), str(built)], check=True)
    shutil.rmtree(source)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}

    def openseg(name, *arguments):
        program = [tmp_path / "site/bin" / name, *arguments]
        return subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)

    config = ["--config", "configs/cityscapes/hrnet48_ocr.yaml"]
    assert "name: hrnet_w48_ocr" in openseg("openseg", "config", *config).stdout
    assert "usage: openseg " in openseg("openseg", "--help").stdout
    assert openseg("openseg-segfix", "--help").returncode == 0
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    trained = [
        "--config",
        "configs/demo/hrnet_tiny_ocr.yaml",
        "--checkpoint",
        "configs/demo/hrnet_tiny_ocr.safetensors",
    ]
    done = openseg("openseg", "predict", "a.png", *trained, "--out", "predicted")
    assert done.returncode == 0 and (tmp_path / "predicted/label/a.png").is_file(), done.stderr
    (tmp_path / "images").mkdir()
    (tmp_path / "a.png").rename(tmp_path / "images/a.png")
    arguments = ["--input", "predicted/label", "--images", "images", "--split", "test", "--out", "refined"]
    done = openseg("openseg-segfix", *arguments)
    assert done.returncode == 0 and (tmp_path / "refined/a.png").is_file(), done.stderr
    code = "import openseg, pathlib; p = pathlib.Path(openseg.__file__).parent"
    files = "py.typed", "tools/report/page/viewer.js", "serving/page/index.html"
    code += f"; assert all((p / name).is_file() for name in {files}); print(p)"
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stdout.strip() == str(tmp_path / "site/openseg"), result.stderr
    assert len([*(tmp_path / "site/openseg/configs").glob("*/*.yaml")]) == len([*ROOT.glob("configs/*/*.yaml")])


def test_importing_is_quick():
    """Modules, not seconds: what takes long is left until it is needed."""
    code = "import sys, openseg; sys.exit(bool({'torch', 'cv2', 'numba', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_one_version_everywhere(capsys):
    import openseg
    from openseg.cli.main import main

    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out.startswith(f"openseg {openseg.__version__}, PyTorch ")
    citation = (ROOT / "CITATION.cff").read_text()
    (released,) = re.findall(r"^date-released: (\S+)$", citation, re.M)
    assert f"\nversion: {openseg.__version__}\n" in citation
    assert f"\n## {openseg.__version__} - {released}\n" in (ROOT / "CHANGELOG.md").read_text()
