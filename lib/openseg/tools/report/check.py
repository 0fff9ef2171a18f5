"""The report of ``main.py check`` for a terminal."""

from __future__ import annotations

from openseg.datasets.check import SplitReport, suggest_weights
from openseg.tools.report.tables import align

__all__ = ["check_text"]

_SHOWN = 20
_NAMED = 10


def check_text(report: SplitReport) -> str:
    """What was found in a split: sizes, classes, then warnings and errors."""
    lines = [f"{report.name}: {report.samples} pairs, {_sizes(report)}"]
    if report.pixels.any():
        lines.append(_class_table(report))
        if report.absent:
            more = f" and {len(report.absent) - _NAMED} more" if len(report.absent) > _NAMED else ""
            lines.append(f"  no pixel of {len(report.absent)} classes: {', '.join(report.absent[:_NAMED])}{more}")
    if report.unknown:
        common = sorted(report.unknown.items(), key=lambda item: -item[1][0])[:_SHOWN]
        lines.append(f"  unknown values: {', '.join(f'{value} in {count} labels' for value, (count, _) in common)}")
    for title, problems in (("warning", report.warnings), ("error", report.errors)):
        lines += [f"  {title}: {text}" for text in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"  ... and {len(problems) - _SHOWN} more ({title}s); --json FILE has all of them")
    return "\n".join(lines)


def _sizes(report: SplitReport) -> str:
    if not report.sizes:
        return "no readable image"
    if len(report.sizes) == 1:
        (height, width), _ = next(iter(report.sizes.items()))
        return f"all {height} x {width} (height x width)"
    heights, widths = zip(*report.sizes, strict=True)
    return f"{len(report.sizes)} sizes, height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)}"


def _class_table(report: SplitReport) -> str:
    weights, labeled = suggest_weights(report.pixels), int(report.pixels.sum())
    rows = [["class", "pixels (%)", "images", "suggested weight"]]
    for i, name in enumerate(report.dataset_info.classes):
        if report.pixels[i]:
            rows.append([name, f"{100 * report.pixels[i] / labeled:.3f}", str(report.images[i]), f"{weights[i]:.3f}"])
    rows.append(["(ignored, of all)", f"{100 * report.ignored / (labeled + report.ignored):.3f}", "", ""])
    return align(rows)
