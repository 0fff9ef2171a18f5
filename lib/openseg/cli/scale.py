"""Options for large sources, and the commands that take them."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from openseg.cli.common import call, shown_errors
from openseg.cli.options import Option, flag, option, options_of
from openseg.errors import ConfigError
from openseg.io.files import write_json
from openseg.scale.settings import Scale, is_large
from openseg.tools.report import tables
from openseg.tools.report.text import scale_text

__all__ = ["RECORDS", "SCALE", "large", "merge", "run_large"]

SCALE: tuple[Option, ...] = tuple(options_of(Scale))
RECORDS = (
    option("--out DIR", "folder of the records of a large source, with which an interrupted run continues"),
    flag("--overwrite", "do what is recorded there again"),
)


def large(arguments: argparse.Namespace, *sources: Any) -> Scale | None:
    """The options for large sources; None where nothing needs them."""
    scale = Scale(**{each.name: getattr(arguments, each.name) for each in fields(Scale)})
    return None if scale.is_default and not is_large(*sources) else scale


def run_large(function: str, arguments: argparse.Namespace, scale: Scale, **more: Any) -> int:
    """Run ``openseg.scale.<function>`` and print what it says."""
    import openseg.scale

    result = call(getattr(openseg.scale, function), arguments, scale=scale, **more)
    if not result.manifest:  # one of several processes, of which the first tells
        return 0
    if result.scores is not None:
        _show_scores({more["predictions"]: result.scores}, arguments, result.part)
    print(scale_text(result.summary))
    if function != "evaluate" or arguments.out:
        print(f"results: {result.out}\nmanifest: {result.manifest}")
    return shown_errors([*result.left_out, *_not_done(result.summary, len(result.left_out), result.manifest)])


def _not_done(summary: dict[str, Any], shown: int, where: str) -> list[str]:
    more = summary["failed"] - shown
    lines = [f"{more} more, all in {where}"] if more > 0 else []
    return lines + ([f"{summary['missing']} inputs were not done; run again"] if summary["missing"] else [])


def _show_scores(scores: dict[str, Any], arguments: argparse.Namespace, part: dict[str, Any] | None) -> None:
    print(tables.scores_text(scores, arguments.per_image))
    files = None if part else arguments.json, arguments.markdown, arguments.csv
    tables.write_score_files(scores, *files, images=arguments.per_image)
    if part and arguments.json:
        write_json(arguments.json, {**{name: each.as_dict() for name, each in scores.items()}, **part})


def only_one(predictions: list[str]) -> str:
    """The one address to score; raises ConfigError if there are several."""
    if len(predictions) != 1:
        raise ConfigError("a large source is scored alone; give one --pred")
    return predictions[0]


def merge(arguments: argparse.Namespace) -> int:
    """Add up the files of shards."""
    import openseg.scale

    summary, scores = openseg.scale.merge(arguments.files)
    if scores is not None:
        _show_scores({summary["name"]: scores}, arguments, None)
    elif arguments.json:
        write_json(Path(arguments.json), summary)
    print(scale_text(summary))
    return shown_errors([*summary["errors"], *_not_done(summary, len(summary["errors"]), "the manifests")])
