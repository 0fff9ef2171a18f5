"""``segfix.py tune``: which scale and confidence refine the labels of a model best."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from openseg.cli.common import HelpFormatter, add_debug, add_workers, existing_dir, run_command
from openseg.cli.refine import list_labels
from openseg.datasets.registry import get_dataset_info
from openseg.errors import DataError
from openseg.io.files import LABEL_SUFFIXES, list_files, write_json
from openseg.io.images import read_label
from openseg.io.matching import match_files
from openseg.io.parallel import map_parallel
from openseg.metrics import LabelScores
from openseg.segfix import read_offset_map
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.refining import Refining
from openseg.tools.scoring import ScoredPair, score_files

__all__ = ["tune"]

_DESCRIPTION = """Find the scale and the confidence that refine the labels of a model best.

  python segfix.py tune --input labels/train --gt data/camvid/train/label --offset offsets/train --dataset camvid

Every combination is tried and scored: mean IoU, the boundary F-score at 1 and 3 pixels, and the class that loses most.
The best is the one with the largest gain of the two F-scores among those that cost no mean IoU and no class more than a
quarter of a point. Use images that neither SegFix nor the model was trained on, and others than those whose scores you
will report.
"""
_DISTANCES = (1, 3)
_SCALES, _CONFIDENCES, _WIDTHS = (1, 2, 3), (0.0, 0.2, 0.3, 0.4, 0.5, 0.6), (0, 5)
_MOST_LOST = 0.25  # points of IoU
_LOOKED_AT = 4  # images, to see which ids the labels hold
Setting = tuple[int, float, int]
Job = tuple[Path, Path, OffsetFile]


def tune(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="segfix.py tune", description=_DESCRIPTION, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="labels of a model")
    parser.add_argument("--gt", required=True, metavar="DIR", help="their truth")
    parser.add_argument("--offset", required=True, metavar="DIR", help="offsets of their images, also a zip archive")
    parser.add_argument(
        "--dataset", default="cityscapes", metavar="NAME", help="or a YAML file of your own (default: cityscapes)"
    )
    parser.add_argument(
        "--scales", type=_integers, default=_SCALES, metavar="N,N", help="to try, in pixels (default: 1,2,3)"
    )
    parser.add_argument(
        "--confidences",
        type=_fractions,
        default=_CONFIDENCES,
        metavar="P,P",
        help="to try (default: 0,0.2,0.3,0.4,0.5,0.6)",
    )
    parser.add_argument(
        "--keep-thin", type=_integers, default=_WIDTHS, metavar="N,N", help="to try, in pixels (default: 0,5)"
    )
    parser.add_argument("--train-ids", action="store_true", help="the labels hold training ids 0, 1, 2, ...")
    parser.add_argument("--json", metavar="FILE", help="also write the table here")
    add_workers(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    return run_command(lambda: _run(arguments), arguments.debug)


def _integers(text: str) -> tuple[int, ...]:
    if not all(part.isdigit() for part in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pixels such as 1,2")
    return tuple(sorted({int(part) for part in text.split(",")}))


def _fractions(text: str) -> tuple[float, ...]:
    try:
        values = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        values = (-1.0,)
    if not all(0 <= value <= 1 for value in values):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 0 to 1 such as 0,0.5")
    return values


def _run(arguments: argparse.Namespace) -> None:
    source = existing_dir(arguments.input, "labels of a model")
    folder = existing_dir(arguments.gt, "true labels")
    truths = {path.relative_to(folder).as_posix(): path for path in list_files(folder, LABEL_SUFFIXES)}
    labels, offsets = list_labels(source), list_offsets(arguments.offset)
    true, moved = (match_files(labels, [*others])[0] for others in (truths, offsets))
    jobs = [
        (source / name, truths[true[name]], offsets[moved[name]]) for name in labels if name in true and name in moved
    ]
    if not jobs:
        raise DataError(f"{source}: no label has both a truth in {arguments.gt} and an offset in {arguments.offset}")
    settings = list(itertools.product(arguments.scales, arguments.confidences, arguments.keep_thin))
    print(f"{len(jobs)} of {len(truths)} images, {len(settings)} settings")
    first = [ScoredPair(*job[:2]) for job in jobs[:_LOOKED_AT]]
    score_files(first, arguments.dataset, (), train_ids=arguments.train_ids)  # refuses ids of the other kind
    info = get_dataset_info(arguments.dataset)
    totals = [LabelScores(info, _DISTANCES) for _ in range(1 + len(settings))]
    work = partial(_score_job, dataset=arguments.dataset, settings=settings, train_ids=arguments.train_ids)
    for found in map_parallel(work, jobs, "tune", arguments.workers):
        for total, scores in zip(totals, found, strict=True):
            total.merge(scores)
    rows = [_row(totals[0], scores, setting) for setting, scores in zip(settings, totals[1:], strict=True)]
    _show(totals[0], rows)
    if arguments.json:
        write_json(arguments.json, {"before": totals[0].compute(), "settings": rows})


def _score_job(job: Job, dataset: str, settings: list[Setting], train_ids: bool) -> list[LabelScores]:
    """Scores of one image's labels as they are, and refined with each setting."""
    label, truth_path, offset = job
    info = get_dataset_info(dataset, fresh=False)
    labels = read_label(label) if train_ids else info.read_prediction(label)
    truth, offsets = info.read_truth(truth_path), read_offset_map(offset)
    if labels.shape != truth.shape or offsets.shape != truth.shape:
        raise DataError(f"{label}, {truth_path} and {offset} differ in size")
    results = []
    ways = [Refining(dataset, scale, confidence, keep_thin=width) for scale, confidence, width in settings]
    for refined in [labels, *(way(labels, offsets) for way in ways)]:
        scores = LabelScores(info, _DISTANCES)
        scores.update(refined, truth)
        results.append(scores)
    return results


def _row(before: LabelScores, after: LabelScores, setting: Setting) -> dict:
    """The changes of a setting, in points."""
    base = before.compute()
    gains = {name: 100 * (value - base[name]) for name, value in after.compute().items()}
    classes = {name: 100 * (value - before.by_class[name]) for name, value in after.by_class.items()}
    known = {name: change for name, change in classes.items() if not np.isnan(change)}
    worst = min(known, key=lambda name: known[name], default="-")
    boundary = [gains[f"boundary F {distance} px"] for distance in _DISTANCES]
    row = {"scale": setting[0], "min_confidence": setting[1], "keep_thin": setting[2], "mIoU": gains["mIoU"]}
    row |= {f"F {distance} px": gain for distance, gain in zip(_DISTANCES, boundary, strict=True)}
    return {**row, "worst class": worst, "its IoU": known.get(worst, 0.0)}


def _show(before: LabelScores, rows: list[dict]) -> None:
    from openseg.tools.report.tables import align

    summary = before.compute()
    values = [summary["mIoU"], *(summary[f"boundary F {distance} px"] for distance in _DISTANCES)]
    cells = [[*rows[0]], ["as they are", "", "", *(f"{100 * value:.2f}" for value in values), "", ""]]
    for row in rows:
        scale, confidence, width, *gains, worst, loss = row.values()
        cells.append(
            [str(scale), f"{confidence:g}", str(width), *(f"{gain:+.2f}" for gain in gains), worst, f"{loss:+.2f}"]
        )
    print(align(cells))
    harmless = [row["mIoU"] >= 0 and row["its IoU"] >= -_MOST_LOST for row in rows]
    gains = [
        sum(row[f"F {distance} px"] for distance in _DISTANCES) if fine else -1
        for row, fine in zip(rows, harmless, strict=True)
    ]
    if max(gains) <= 0:
        print("no setting raises the boundary F-scores without harm: these offsets do not help these labels")
        return
    best = rows[gains.index(max(gains))]
    print(f"best: --scale {best['scale']} --min-confidence {best['min_confidence']:g} --keep-thin {best['keep_thin']}")
