"""Score tables for a terminal, and the same as JSON, Markdown and CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openseg.io.files import atomic_write, write_json
from openseg.metrics import InstanceScores, LabelScores
from openseg.tools.scoring import first_of

__all__ = ["align", "class_table", "scores_text", "summary_table", "write_score_files"]

Results = Mapping[str, LabelScores | InstanceScores]


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


def _markdown(rows: list[list[str]]) -> str:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    cells.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _table(title: str, columns: Mapping[str, Mapping[str, float]]) -> list[list[str]]:
    """Percent values by name, one column a result; with exactly two, also the change between them in points."""
    rows = [[title, *columns, *(["change"] if len(columns) == 2 else [])]]
    for name in dict.fromkeys(name for column in columns.values() for name in column):
        values = [column.get(name, float("nan")) for column in columns.values()]
        cells = [_percent(value) for value in values]
        if len(values) == 2:
            change = 100 * (values[1] - values[0])
            cells.append("-" if np.isnan(change) else f"{change:+.2f}")
        rows.append([name, *cells])
    return rows


def summary_table(results: Results, images: bool = False) -> list[list[str]]:
    """Headline scores; ``images`` adds boundary scores averaged over images."""
    columns = {}
    for name, scores in results.items():
        columns[name] = scores.compute()
        if images and isinstance(scores, LabelScores):
            columns[name] |= scores.image_means()
    return _table("score (%)", columns)


def class_table(results: Results) -> tuple[list[list[str]], list[str]]:
    """IoU, or AP of instances, of each class; and the classes that no result holds, which are left out."""
    columns = {name: scores.by_class for name, scores in results.items()}
    first = next(iter(columns.values()))
    absent = [name for name in first if all(np.isnan(column[name]) for column in columns.values())]
    present = [name for name in first if name not in absent]
    shown = {result: {name: column[name] for name in present} for result, column in columns.items()}
    title = "AP (%)" if isinstance(next(iter(results.values())), InstanceScores) else "IoU (%)"
    return _table(title, shown), absent


def scores_text(results: Results, images: bool = False, left_out: Mapping[str, list[str]] | None = None) -> str:
    """Both tables, and what is not in them, for a terminal."""
    classes, absent = class_table(results)
    return "\n\n".join([align(classes), *_notes(absent, left_out), align(summary_table(results, images))])


def write_score_files(
    results: Results,
    json: Path | None = None,
    markdown: Path | None = None,
    confusion: Path | None = None,
    images: bool = False,
    left_out: Mapping[str, list[str]] | None = None,
) -> None:
    """Write what is asked for.

    Args:
        json: every value.
        markdown: the tables.
        confusion: the confusion matrices as CSV; rows are the truth.
        images: see ``summary_table``.
        left_out: what was not scored, by result.
    """
    if json is not None:
        values: dict[str, dict[str, Any]] = {name: scores.as_dict() for name, scores in results.items()}
        for name, problems in (left_out or {}).items():
            values[name]["left_out"] = problems
        write_json(json, values)
    if markdown is not None:
        classes, absent = class_table(results)
        parts = [_markdown(summary_table(results, images)), _markdown(classes), *_notes(absent, left_out)]
        with atomic_write(markdown) as temporary:
            temporary.write_text("\n\n".join(parts) + "\n", encoding="utf-8", errors="backslashreplace")
    if confusion is not None:
        _write_confusion(confusion, results)


def _notes(absent: Sequence[str], left_out: Mapping[str, list[str]] | None) -> list[str]:
    notes = [f"not in the data: {', '.join(absent)}"] if absent else []
    for name, problems in (left_out or {}).items():
        notes.append(f"left out of {name}: {len(problems)} ({first_of(problems)})")
    return notes


def _write_confusion(path: Path, results: Results) -> None:
    """One row a class of the truth: result, class, then pixels by predicted class and as no class."""
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        label_scores = {name: scores for name, scores in results.items() if isinstance(scores, LabelScores)}
        for number, (name, scores) in enumerate(label_scores.items()):
            if number == 0:
                writer.writerow(["predictions", "truth", *scores.classes, "no class"])
            for label, row in zip(scores.classes, scores.confusion.counts.tolist(), strict=True):
                writer.writerow([name, label, *row])
