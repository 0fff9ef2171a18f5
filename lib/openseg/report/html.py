"""The report that a browser shows: one folder of static files, opened from a disk without a server."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from openseg.catalog import get_catalog
from openseg.engine.scoring import ScoredPair, read_prediction, score_files
from openseg.errors import DataError
from openseg.files import atomic_write, claim_folder, without_nan
from openseg.images import require_same_size
from openseg.metrics import LabelScores
from openseg.parallel import map_parallel
from openseg.report.samples import Sample, safe_colors, write_sample

__all__ = ["MOST_SHOWN", "PAGE", "curves_of", "write_report"]

PAGE = "index.html"
MOST_SHOWN = 500
_IMAGE_DISTANCE = 3  # pixels: of the boundary F-score that images are sorted by
_MEASURES = ["mIoU", "pixel accuracy", f"boundary F {_IMAGE_DISTANCE} px"]
_CURVE_POINTS = 1000
_SCRIPTS = ("common", "scores", "gallery", "viewer", "start")


def write_report(
    out: Path | None,
    samples: Sequence[Sample],
    names: Sequence[str],
    dataset: str,
    title: str,
    instances: Mapping[str, Path] | None = None,
    curves: Sequence[Mapping[str, Any]] = (),
    train_ids: bool = False,
    workers: int = 1,
    limit: int = MOST_SHOWN,
) -> dict[str, LabelScores]:
    """Score one or two results and write a page about them into ``out``; returns the scores by result.

    Args:
        out: None writes no page.
        samples: each with a label map of every one of ``names``; all with a truth, or none: then there are no scores,
            and of two results the page shows where they differ.
        instances: the truth's instance maps by sample name, for Cityscapes' iIoU.
        curves: what a training logged, see ``curves_of``.
        limit: samples that are shown; of more, those that changed most either way, or that are worst.

    Raises:
        DataError: there are no samples, a file cannot be used, or ``out`` holds files that no report wrote.
    """
    if not samples:
        raise DataError(f"{title}: no label maps to report")
    catalog = get_catalog(dataset)
    results: dict[str, LabelScores] = {}
    measures = _MEASURES if samples[0].truth is not None else ["unchanged pixels"] if len(names) == 2 else []
    values = np.full((len(samples), len(names), len(measures)), np.nan, np.float32)
    if samples[0].truth is not None:
        for place, name in enumerate(names):

            def keep(number: int, scores: LabelScores, place: int = place) -> None:
                values[number, place] = _values_of(scores)

            pairs = [
                ScoredPair(each.predictions[place], each.truth, (instances or {}).get(each.name)) for each in samples
            ]
            what = f"score {name}" if len(names) == 2 else "score"
            results[name] = score_files(pairs, dataset, what=what, workers=workers, train_ids=train_ids, seen=keep)
    elif len(names) == 2:
        values[:, 0] = 1
        compare = partial(_unchanged, dataset=dataset, train_ids=train_ids)
        for number, share in enumerate(map_parallel(compare, samples, "compare", workers)):
            values[number, 1] = share
    if out is None:
        return results
    shown = _choose(values, limit)
    claim_folder(out, {"what": "report"}, (".html", ".js", ".jpg"), ("", "samples", "thumbs"), "overwrite")
    work = [(number, samples[index]) for number, index in enumerate(shown)]
    write = partial(write_sample, out=out, dataset=dataset, train_ids=train_ids)
    sizes = [*map_parallel(write, work, "report", workers)]
    content = {
        "title": title,
        "dataset": catalog.name,
        "names": list(names),
        "classes": list(catalog.classes),
        "colors": [list(color) for color in catalog.colors],
        "safe": safe_colors(catalog.num_classes),
        "measures": measures,
        "total": len(samples),
        "samples": [
            {"name": samples[index].name, "values": _numbers(values[index]), "thumb": size}
            for index, size in zip(shown, sizes, strict=True)
        ],
        "results": [_result(scores) for scores in results.values()],
        "curves": list(curves),
    }
    _write_page(out / PAGE, title, content)
    return results


def _values_of(scores: LabelScores) -> tuple[float, float, float]:
    """``_MEASURES`` of one image."""
    confusion, boundary = scores.confusion, scores.boundary
    return (
        confusion.mean_iou,
        confusion.pixel_accuracy,
        np.nan if boundary is None else boundary.mean_f[_IMAGE_DISTANCE],
    )


def _unchanged(sample: Sample, dataset: str, train_ids: bool) -> float:
    """Share of pixels that are the same in both results."""
    catalog = get_catalog(dataset, fresh=False)
    first, second = (read_prediction(path, catalog, train_ids) for path in sample.predictions)
    require_same_size(sample.predictions[1], second.shape, sample.predictions[0], first.shape)
    return float((first == second).mean())


def _choose(values: np.ndarray, limit: int) -> list[int]:
    """Numbers of the samples that are shown, in their order: all, or those that say most."""
    count = len(values)
    if count <= limit or not values.size:
        return list(range(min(count, limit)))
    first = np.nan_to_num(values[..., 0], nan=1.0)
    if values.shape[1] == 1:
        order = np.argsort(first[:, 0], kind="stable")
    else:
        gains = np.argsort(first[:, 0] - first[:, 1], kind="stable")
        order = np.stack([gains, gains[::-1]], axis=1).ravel()  # the greatest gain, the greatest loss, the next ...
    return sorted([*dict.fromkeys(order.tolist())][:limit])


def _numbers(values: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 5) for value in row] for row in values]


def _result(scores: LabelScores) -> dict[str, Any]:
    found = scores.as_dict()
    return {
        "summary": scores.summary(),
        "iou": list(found["class_iou"].values()),
        "boundary": {
            distance: list(by_class.values()) for distance, by_class in found.get("class_boundary_f", {}).items()
        },
        "meanBoundary": {} if scores.boundary is None else {str(d): f for d, f in scores.boundary.mean_f.items()},
        "confusion": found["confusion"],
    }


def curves_of(metrics: Path) -> list[dict[str, Any]]:
    """Curves of a training's ``metrics.jsonl``: ``title``, ``x`` (updates) and ``y`` of the loss and of each score.

    Raises:
        DataError: the file cannot be read.
    """
    found: dict[str, dict[int, float]] = {"loss": {}, "validation mIoU": {}}
    try:
        for line in metrics.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            values = {"loss": record.get("loss"), "validation mIoU": record.get("val", {}).get("mIoU")}
            for name, value in values.items():
                if value is not None:
                    found[name][record["iteration"]] = value  # what was done again after a resume stands last
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise DataError(f"{metrics}: cannot be read as metrics of a training ({error})") from None
    curves = []
    for name, points in found.items():
        kept = sorted(points.items())[:: -(-len(points) // _CURVE_POINTS) or 1]
        if kept:
            curves.append({"title": name, "x": [x for x, _ in kept], "y": [y for _, y in kept]})
    return curves


def _write_page(path: Path, title: str, content: dict[str, Any]) -> None:
    """The page with its style, script and data inside."""
    page = files("openseg.report") / "page"
    text = (page / PAGE).read_text(encoding="utf-8")
    data = json.dumps(without_nan(content), separators=(",", ":")).replace("<", "\\u003c")  # or it might end the script
    parts = {"title": html.escape(title), "style": (page / "page.css").read_text(encoding="utf-8"), "data": data}
    parts["script"] = "\n".join((page / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    for name, part in parts.items():
        text = text.replace(f"{{{{ {name} }}}}", part)
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
