"""Write docs/quickstart.ipynb from docs/quickstart.md: ``python scripts/notebook.py``; ``--check`` only compares."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"


def notebook(page: str) -> dict:
    """The notebook of a Markdown page (nbformat 4.5): a code cell for each Python block, without outputs."""
    cells = []
    for index, part in enumerate(re.split(r"^```python\n(.*?)^```\n", page, flags=re.M | re.S)):
        kind = "code" if index % 2 else "markdown"
        if part.strip():
            cell = {"cell_type": kind, "id": f"cell-{index}", "metadata": {}, "source": part.strip()}
            cells.append(cell | ({"execution_count": None, "outputs": []} if kind == "code" else {}))
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def main() -> int:
    text = json.dumps(notebook((DOCS / "quickstart.md").read_text(encoding="utf-8")), indent=1) + "\n"
    target = DOCS / "quickstart.ipynb"
    if "--check" in sys.argv[1:]:
        if target.exists() and target.read_text(encoding="utf-8") == text:
            return 0
        print(f"{target.name} is not up to date; run python scripts/notebook.py", file=sys.stderr)
        return 1
    target.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
