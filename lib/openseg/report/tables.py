"""Score tables for a terminal, and the JSON beside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from openseg.files import write_json
from openseg.metrics import LabelScores

__all__ = ["align", "class_table", "summary_table", "write_scores"]


def _percent(value: float) -> str:
    return "-" if np.isnan(value) else f"{100 * value:.2f}"


def align(rows: list[list[str]]) -> str:
    """Rows of cells as columns, the first row being the header; only the first column is flush left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _with_change(values: list[float]) -> list[str]:
    """Percent values; with exactly two of them, also the change from the first to the second in points."""
    cells = [_percent(value) for value in values]
    if len(values) == 2:
        change = 100 * (values[1] - values[0])
        cells.append("-" if np.isnan(change) else f"{change:+.2f}")
    return cells


def summary_table(results: Mapping[str, LabelScores]) -> str:
    """Headline scores in percent, one column a result."""
    header = ["score (%)", *results, *(["change"] if len(results) == 2 else [])]
    summaries = [scores.summary() for scores in results.values()]
    rows = [[name, *_with_change([summary[name] for summary in summaries])] for name in summaries[0]]
    return align([header, *rows])


def class_table(results: Mapping[str, LabelScores]) -> str:
    """IoU of each class in percent, one column a result; classes that no result holds are listed below."""
    header = ["IoU (%)", *results, *(["change"] if len(results) == 2 else [])]
    columns = [scores.confusion.class_iou for scores in results.values()]
    rows, absent = [], []
    for index, name in enumerate(next(iter(results.values())).classes):
        values = [float(column[index]) for column in columns]
        if all(np.isnan(value) for value in values):
            absent.append(name)
        else:
            rows.append([name, *_with_change(values)])
    table = align([header, *rows])
    return f"{table}\nnot in the data: {', '.join(absent)}" if absent else table


def write_scores(path: Path | None, results: Mapping[str, LabelScores]) -> None:
    """Print both tables; write everything as JSON to ``path`` unless it is None."""
    print(f"{class_table(results)}\n\n{summary_table(results)}")
    if path is not None:
        write_json(path, {name: scores.as_dict() for name, scores in results.items()})
