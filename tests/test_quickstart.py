"""The quick start is executed as the notebook that it also is, by a real kernel."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT


def test_notebook_has_the_blocks_of_the_page():
    done = subprocess.run([sys.executable, ROOT / "scripts/notebook.py", "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_notebook_runs(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="pip install openseg[test]")
    nbclient = pytest.importorskip("nbclient", reason="pip install openseg[test]")
    notebook = nbformat.read(ROOT / "docs/quickstart.ipynb", as_version=4)
    # The notebook looks for the repository above its folder; here it runs in an empty one.
    for cell in notebook.cells:
        cell.source = cell.source.replace("(Path.cwd(), *Path.cwd().parents)", f"[Path({str(ROOT)!r})]")
    nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "torch.Size([1, 19, 32, 64])" in outputs and "'mIoU'" in outputs
    assert (tmp_path / re.search(r"open (\S+) in a browser", outputs)[1]).stat().st_size > 10_000
    labels = {
        kind: len(list((tmp_path / "quickstart" / kind).glob("*.png"))) for kind in ("predictions/label", "refined")
    }
    assert labels == {"predictions/label": 4, "refined": 4}
