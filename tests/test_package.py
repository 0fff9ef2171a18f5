"""What importing costs and touches."""

import re

from conftest import ROOT


def test_segfix_and_metrics_need_no_torch(run):
    code = "import sys, openseg.segfix, openseg.metrics; sys.exit(any(m.split('.')[0] == 'torch' for m in sys.modules))"
    assert run("-c", code).returncode == 0


def test_segfix_command_needs_no_torch(run):
    code = "import sys, openseg.cli.refine, openseg.engine.scoring; sys.exit('torch' in sys.modules)"
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
    forbidden = re.compile(r"os\.environ|getenv|sys\.exit\(|(?<![\w.])exit\(|breakpoint\(")
    for path in (ROOT / "lib/openseg").rglob("*.py"):
        text = path.read_text()
        if path.name == "distributed.py":
            text = torchrun.sub("", text)
        assert not forbidden.search(text), path
