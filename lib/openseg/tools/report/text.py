"""Results of commands as text for a terminal."""

from __future__ import annotations

import platform
from importlib import metadata
from typing import Any

import yaml

import openseg
from openseg.datasets.check import SplitReport, suggest_weights
from openseg.tools.report.tables import align, scores_text

__all__ = ["benchmark_text", "check_text", "inspect_text", "label_text", "refined_text", "tune_text"]
__all__ += ["quantized_text", "scale_text", "version_text"]

_SHOWN = 20
_NAMED = 10


def version_text() -> str:
    """The versions that a bug report needs."""
    return f"openseg {openseg.__version__}, PyTorch {metadata.version('torch')}, Python {platform.python_version()}"


def scale_text(summary: dict[str, Any]) -> str:
    """What a run over a large source did: counts, rate, the slowest stage, and the work of each worker."""
    shard = f" in shard {summary['shard']}" if summary.get("shard", "1/1") != "1/1" else ""
    parts = [f"{summary['done']} of {summary['in_shard']} inputs done{shard}"]
    parts += [f"{summary[name]} {name}" for name in ("failed", "missing", "skipped") if summary[name]]
    parts += [f"{count} {role}s belong to none" for role, count in summary.get("unmatched", {}).items()]
    lines = [", ".join(parts)]
    if summary.get("per_second"):
        lines.append(f"{summary['per_second']:.1f} a second; the slowest stage is to {summary['slowest_stage']}")
        workers = summary["by_worker"].values()
        lines.append(f"{len(workers)} workers, which did {min(workers)} to {max(workers)} inputs")
    return "\n".join(lines)


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


def inspect_text(found: dict[str, Any]) -> str:
    """What ``openseg.inspect`` found."""
    costs = found["costs"]
    height, width = costs["size"]
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in costs["parts"].items())
    live = costs["activations MiB"]
    lines = [f"{key:<12}{value}" for key, value in found["network"].items()]
    lines += [
        f"parameters  {costs['parameters'] / 1e6:.2f} million ({parts}), {costs['weights MiB']:.0f} MiB in float32",
        f"operations  {costs['GFLOPs']:.1f} GFLOPs for an image of {height} x {width} (two for a multiply-add)",
        f"activations {live['prediction']:.0f} MiB in prediction, {live['training']:.0f} MiB an image in training",
    ]
    for key, value in found.get("checkpoint", {}).items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {score:.4f}" for name, score in value.items())
        if isinstance(value, list):
            more = f" and {len(value) - _NAMED} more (--json has all)" if len(value) > _NAMED else ""
            value = f"{', '.join(value[:_NAMED])}{more}"
        if value != "":
            lines.append(f"{key:<12}{value}")
    settings = {name: found["config"][name] for name in ("model", "normalization")}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join([*lines, "", text, "(the whole config: --json, or main.py config)"])


def label_text(found: dict[str, Any]) -> str:
    """What ``openseg.describe_labels`` found in one file."""
    height, width = found["size"]
    columns = [name for name in ("value", "name", "color", "share") if any(name in row for row in found["values"])]
    rows = [["value", *columns[1:-1], "pixels (%)"]]
    for row in found["values"]:
        cells = [str(row.get(name, "")) for name in columns[:-1]]
        rows.append([*cells, f"{100 * row['share']:.3f}"])
    return f"{found['file']}: {height} x {width}, {found['kind']}\n{align(rows)}"


def quantized_text(found: Any) -> str:
    """Return in one line what int8 costs."""
    return (
        f"int8: {found.layers} of {found.all_layers} layers; mIoU of {found.images} other images {found.before:.2f} -> "
        f"{found.after:.2f}, {100 * found.same:.3f} % of the pixels the same"
    )


def benchmark_text(found: dict[str, dict[str, float]]) -> str:
    """What ``openseg.benchmark`` measured."""
    texts = []
    for what, values in found.items():
        names = [name for name in values if name not in ("images/s", "peak MiB")]
        total = sum(values[name] for name in names)
        rows = [["part", "ms", "share"], *([n, f"{values[n]:.1f}", f"{values[n] / total:.1%}"] for n in names)]
        texts.append(f"\n{what}: {values['images/s']:.2f} images/s")
        texts.append(align([*rows, ["all", f"{total:.1f}", ""]]))
        if "peak MiB" in values:
            texts.append(f"peak memory of the GPU: {values['peak MiB']:.0f} MiB")
    return "\n".join(texts)


def refined_text(result: Any, hint: str = "") -> str:
    """Scores of a ``Refinement`` and where they are, or why there are none and the command that shows what changed."""
    if not result.scores:
        lines = [f"not scored: {result.not_scored}"] if result.not_scored else []
        return "\n".join([*lines, *([f"see what changed: {hint}"] if lines and hint else [])])
    if result.out.suffix == ".json":
        rows = (
            [f"{name:7}", *(f"{key} {100 * value:.2f}" for key, value in values.items())]
            for name, values in result.scores.items()
        )
        return "\n".join(["AP of masks, COCO:", *("  ".join(row) for row in rows)])
    files = (
        f"{kind.removesuffix('s') if kind == 'figures' else kind}: {path}"
        for kind in ("scores", "report", "figures")
        for path in result.files.get(kind, ())
    )
    return "\n".join([scores_text(result.scores), "", *files])


def tune_text(rows: list[dict[str, Any]], before: dict[str, float], best: dict[str, Any] | None) -> str:
    """What ``openseg.tune`` found: a row for each setting, and the best one as options."""
    values = [before["mIoU"], before["boundary F 1 px"], before["boundary F 3 px"]]
    cells = [[*rows[0]], ["as they are", "", "", "", *(f"{100 * value:.2f}" for value in values), "", ""]]
    for row in rows:
        scale, confidence, width, steps, *gains, worst, loss = row.values()
        changes = [f"{gain:+.2f}" for gain in gains]
        cells.append([str(scale), f"{confidence:g}", str(width), str(steps), *changes, worst, f"{loss:+.2f}"])
    end = "no setting raises the boundary F-scores without harm: these offsets do not help these labels"
    if best is not None:
        options = f"--scale {best['scale']} --min-confidence {best['min_confidence']:g} --keep-thin {best['keep_thin']}"
        options += f" --steps {best['steps']}" if best["steps"] > 1 else ""
        end = f"best: {options}"
    return f"{align(cells)}\n{end}"
