"""HTML report: a folder of static files, which opens in a browser without a server."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from openseg.datasets.registry import get_dataset_info
from openseg.errors import DataError
from openseg.io.files import atomic_write, without_nan
from openseg.io.images import require_same_size
from openseg.io.parallel import map_parallel
from openseg.io.results import RECORD, ResultFolder
from openseg.metrics import LabelScores
from openseg.tools.report.samples import Sample, safe_colors, write_sample
from openseg.tools.scoring import ScoredPair, first_of, read_prediction, score_files

__all__ = ["MOST_SHOWN", "PAGE", "Report", "curves_of"]

PAGE = "index.html"
MOST_SHOWN = 500
_IMAGE_DISTANCE = 3  # pixels: of the boundary F-score that images are sorted by
_MEASURES = ["mIoU", "pixel accuracy", f"boundary F {_IMAGE_DISTANCE} px"]
_CURVE_POINTS = 1000
_SCRIPTS = ("common", "scores", "gallery", "viewer", "start")


class Report:
    """Scores and HTML report of one or two results of the same images."""

    def __init__(
        self,
        samples: Sequence[Sample],
        names: Sequence[str],
        dataset: str,
        train_ids: bool = False,
        workers: int = 1,
        metrics: Sequence[str] = (),
    ) -> None:
        """
        Args:
            samples: each with a label map of every one of ``names``; all with a ground truth, or none.
            metrics: registered metrics to compute in addition.

        Raises:
            DataError: there are no samples.
        """
        if not samples:
            raise DataError("no label maps to report")
        self.samples, self.names, self.dataset = list(samples), list(names), dataset
        self.train_ids, self.workers, self.metrics = train_ids, workers, tuple(metrics)
        self.results: dict[str, LabelScores] = {}
        self._measures: list[str] = []
        self._values = np.empty((len(self.samples), len(self.names), 0), np.float32)

    def score(
        self, instances: Mapping[str, Path] | None = None, problems: list[str] | None = None
    ) -> dict[str, LabelScores]:
        """The scores by result; without a ground truth none, but how much of two results differs.

        Args:
            instances: the ground truth's instance maps by sample name, for Cityscapes' iIoU.
            problems: takes what is wrong with predictions, whose samples are left out of all results; None raises.

        Raises:
            DataError: a file cannot be used.
        """
        if self.samples[0].truth is None:
            self._compare()
            return {}
        self._measures = _MEASURES
        self._values = np.full((len(self.samples), len(self.names), len(_MEASURES)), np.nan, np.float32)
        scored = np.zeros((len(self.samples), len(self.names)), bool)
        for place, name in enumerate(self.names):

            def keep(number: int, scores: LabelScores, place: int = place) -> None:
                self._values[number, place], scored[number, place] = _values_of(scores), True

            pairs = [
                ScoredPair(each.predictions[place], each.truth, (instances or {}).get(each.name))
                for each in self.samples
                if each.truth is not None
            ]
            what = f"score {name}" if len(self.names) == 2 else "score"
            self.results[name] = score_files(
                pairs,
                self.dataset,
                what=what,
                workers=self.workers,
                train_ids=self.train_ids,
                problems=problems,
                seen=keep,
                metrics=self.metrics,
            )
        if not scored.all():  # so that both are of the same images
            self.samples = [each for each, row in zip(self.samples, scored, strict=True) if row.all()]
            if not self.samples:
                raise DataError(f"no label map can be scored: {first_of(problems or [])}")
            return self.score(instances)
        return self.results

    def _compare(self) -> None:
        if len(self.names) < 2:
            return
        self._measures = ["unchanged pixels"]
        compare = partial(_unchanged, dataset=self.dataset, train_ids=self.train_ids)
        shares = [*map_parallel(compare, self.samples, "compare", self.workers)]
        self._values = np.stack([np.ones(len(shares)), shares], axis=1)[..., None].astype(np.float32)

    def write(self, out: Path, title: str, curves: Sequence[Mapping[str, Any]] = (), limit: int = MOST_SHOWN) -> None:
        """Write the page of what ``score`` found into the folder ``out``.

        Args:
            curves: what a training logged, see ``curves_of``.
            limit: samples that are shown; of more, those that changed most either way, or that are worst.

        Raises:
            DataError: an image cannot be read, or ``out`` holds files that no report wrote.
        """
        shown = _choose(self._values, limit)
        with _claim(out, len(shown)) as folder:
            write = partial(write_sample, out=out, dataset=self.dataset, train_ids=self.train_ids)
            work = [(number, self.samples[index]) for number, index in enumerate(shown)]
            sizes = [*map_parallel(write, work, "report", self.workers)]
            with folder.journal.writing():
                self._write_page(out, title, curves, shown, sizes)

    def _write_page(
        self,
        out: Path,
        title: str,
        curves: Sequence[Mapping[str, Any]],
        shown: Sequence[int],
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        info = get_dataset_info(self.dataset)
        content = {
            "title": _readable(title),
            "dataset": info.name,
            "names": [_readable(name) for name in self.names],
            "classes": list(info.classes),
            "colors": [list(color) for color in info.colors],
            "safe": safe_colors(info.num_classes),
            "measures": self._measures,
            "total": len(self.samples),
            "samples": [
                {"name": _readable(self.samples[index].name), "values": _numbers(self._values[index]), "thumb": size}
                for index, size in zip(shown, sizes, strict=True)
            ],
            "results": [_result(scores) for scores in self.results.values()],
            "curves": list(curves),
        }
        _write_page(out / PAGE, _readable(title), content)


def _readable(name: str) -> str:
    """A name in UTF-8, which a file's may not be."""
    return name.encode("utf-8", "replace").decode()


def _claim(out: Path, count: int) -> ResultFolder:
    """Make ``out`` the place of a page, without the one that was there; nobody else's files are touched.

    Raises:
        DataError: something else has made the folder, or it holds files of others under the names of the page's.
    """
    if (out / PAGE).exists() and not (out / RECORD).exists():
        raise DataError(f"{out / PAGE}: not a report of this program; choose another folder, or move it away")
    folder = ResultFolder(out, {"what": "report"}, (".js", ".jpg", ".html"), ("samples", "thumbs", ""), "overwrite")
    folder.is_done(out / PAGE)
    for number in range(count):
        folder.is_done(out / "samples" / f"{number}.js", kind="samples")
        for suffix in ("", "_safe"):
            folder.is_done(out / "thumbs" / f"{number}{suffix}.jpg", kind="thumbs")
    folder.start()
    return folder


def _values_of(scores: LabelScores) -> list[float]:
    """``_MEASURES`` of one image."""
    found = scores.compute()
    return [found.get(name, float("nan")) for name in _MEASURES]


def _unchanged(sample: Sample, dataset: str, train_ids: bool) -> float:
    """Share of pixels that are the same in both results."""
    info = get_dataset_info(dataset, fresh=False)
    first, second = (read_prediction(path, info, train_ids) for path in sample.predictions)
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
        order = np.argsort(-np.abs(first[:, 0] - first[:, 1]), kind="stable")
    return sorted(order[:limit].tolist())


def _numbers(values: np.ndarray) -> list[list[float]]:
    return [[round(float(value), 5) for value in row] for row in values]


def _result(scores: LabelScores) -> dict[str, Any]:
    found = scores.as_dict()
    return {
        "summary": scores.compute(),
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
    """Write the HTML file with embedded style, script and data."""
    page = files("openseg.tools.report") / "page"
    text = (page / PAGE).read_text(encoding="utf-8")
    data = json.dumps(without_nan(content), separators=(",", ":")).replace("<", "\\u003c")  # or it might end the script
    parts = {"title": html.escape(title), "style": (page / "page.css").read_text(encoding="utf-8"), "data": data}
    parts["script"] = "\n".join((page / f"{name}.js").read_text(encoding="utf-8") for name in _SCRIPTS)
    text = re.sub(r"\{\{ (\w+) \}\}", lambda match: parts[match[1]], text)  # once: names may hold such marks too
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
