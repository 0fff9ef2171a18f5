"""``main.py report``: a page to look at labels with; needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from openseg.cli.common import add_workers
from openseg.cli.evaluate import truths_of
from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import list_images, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, is_older, list_files
from openseg.io.matching import index_files
from openseg.io.results import list_given

if TYPE_CHECKING:
    from openseg.tools.report.html import Report

__all__ = ["add_report", "report", "write_page"]

_REFINED = "label_w_segfix"  # of segfix.py


class _Input(NamedTuple):
    """What is reported: folders of labels, where the page goes, and of a training its metrics."""

    labels: Path
    compare: Path | None
    out: Path
    metrics: Path | None = None


def add_report(parser: argparse.ArgumentParser) -> None:
    """Options of ``report``."""
    parser.add_argument(
        "input", metavar="DIR", help="labels, what val or predict wrote, or the folder of a training below runs/"
    )
    parser.add_argument("--compare", metavar="DIR", help="other labels of the same images, such as refined ones")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the two (default: before and after, or folders)")
    parser.add_argument("--dataset", help="whose ids the labels hold: a name, or a YAML file of your own")
    parser.add_argument("--gt", metavar="DIR", help="true labels (default: the dataset's, of --split)")
    parser.add_argument("--no-gt", action="store_true", help="there is no truth: show the labels, and what differs")
    parser.add_argument("--images", metavar="DIR", help="default: the dataset's, of --split, if they are there")
    parser.add_argument("--split", help="default: val, or of a training its own")
    parser.add_argument("--data-root", metavar="DIR", help="default: data, or of a training its own")
    parser.add_argument("--train-ids", action="store_true", help="the labels hold training ids 0, 1, 2, ...")
    parser.add_argument("--allow-missing", action="store_true", help="report what can be, and say what is left out")
    parser.add_argument(
        "--limit", type=int, default=500, metavar="N", help="images that are shown; scores are of all (default: 500)"
    )
    parser.add_argument("--out", metavar="DIR", help="default: report inside DIR, or beside a folder of labels")
    add_workers(parser)


def report(arguments: argparse.Namespace) -> None:
    """Write the page and print the scores."""
    from openseg.tools.report.html import PAGE, Report, curves_of
    from openseg.tools.report.samples import Sample
    from openseg.tools.report.tables import write_scores
    from openseg.tools.scoring import first_of, match_predictions, require_none

    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: show at least one image")
    found = _input(arguments)
    if not arguments.dataset:
        raise ConfigError("--dataset says whose ids the labels hold, for example --dataset cityscapes")
    arguments.data_root, arguments.split = arguments.data_root or "data", arguments.split or "val"
    info = get_dataset_info(arguments.dataset)
    before, after = _predictions(found, bool(arguments.compare))
    folders = [found.labels] if after is None else [found.labels, found.compare]
    predictions = [before] if after is None else [before, after]
    names = _names(arguments.names, folders)
    instances: dict[str, Path] = {}
    truths: dict[str, Path] = {}
    if not arguments.no_gt:
        truths, instances = truths_of(arguments, info)
    wanted = truths or before
    problems = [text for folder in folders for text in match_predictions(folder, wanted, LABEL_SUFFIXES).problems]
    if problems and not arguments.allow_missing:
        require_none(problems, "; fix that, or report the rest with --allow-missing")
    keys = [key for key in wanted if all(key in each for each in predictions)]
    images = _images(arguments, info, keys)
    samples = [Sample(key, tuple(each[key] for each in predictions), truths.get(key), images.get(key)) for key in keys]
    page = Report(samples, names, arguments.dataset, arguments.train_ids, arguments.workers)
    results = page.score(instances, problems if arguments.allow_missing else None)
    if results:
        write_scores(results)
    if problems:
        print(f"left out: {len(problems)} ({first_of(problems)})")
    curves = curves_of(found.metrics) if found.metrics else []
    page.write(found.out, _title(found, names), curves, arguments.limit)
    print(f"report: {found.out / PAGE}")


def write_page(report: Report, out: Path, title: str) -> None:
    """Write a page beside scores, which stand without it."""
    from openseg.tools.report.html import PAGE

    try:
        report.write(out, title)
    except DataError as error:
        print(f"no page: {error}")
    else:
        print(f"report: {out / PAGE}")


def _predictions(found: _Input, asked: bool) -> tuple[dict[str, Path], dict[str, Path] | None]:
    """Label files by key, and the other ones; those that were found but not asked for only if they are up to date."""
    before = index_files(list_given(found.labels, LABEL_SUFFIXES), "_pred")
    if found.compare is None:
        return before, None
    after = index_files(list_given(found.compare, LABEL_SUFFIXES), "_pred")
    if not asked and any(key not in after or is_older(after[key], path) for key, path in before.items()):
        print(f"{found.compare} is left out: older than the labels, or not of all; refine them again")
        return before, None
    return before, after


def _input(arguments: argparse.Namespace) -> _Input:
    """What the positional argument means; of a training it also fills in the dataset."""
    folder = Path(arguments.input)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder of labels, results or a training")
    out = Path(arguments.out) if arguments.out else None
    compare = Path(arguments.compare) if arguments.compare else None
    if (folder / "config.yaml").is_file():
        labels = _labels_of_training(arguments, folder / "config.yaml")
        refined = labels.with_name(_REFINED)
        return _Input(
            labels, compare or _if_there(refined), out or folder / "report", _if_there(folder / "metrics.jsonl")
        )
    if (folder / "label").is_dir():
        return _Input(folder / "label", compare or _if_there(folder / _REFINED), out or folder / "report")
    folder = folder.resolve()
    out = out or folder.with_name(f"{folder.name}_report")
    return _Input(folder, compare or _if_there(folder / _REFINED), out)


def _title(found: _Input, names: list[str]) -> str:
    folder = found.labels.resolve()
    name = folder.parent.name if folder.name == "label" else folder.name
    return name if names in (["prediction"], ["before", "after"]) else " and ".join(names)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _labels_of_training(arguments: argparse.Namespace, path: Path) -> Path:
    from openseg.config import load_config

    config = load_config(path)
    if config.task != "semantic":
        raise ConfigError(f"{path}: a training of task {config.task}; report labels that its offsets refined")
    arguments.dataset = arguments.dataset or config.data.dataset
    arguments.data_root = arguments.data_root or config.data.root
    arguments.split = arguments.split or config.data.val_split
    if "+" in arguments.split and not arguments.gt:
        raise ConfigError(f"{path}: validates {arguments.split}; name the folder of their truths by --gt")
    results = Path(arguments.data_root) / "seg_result" / config.dataset_info.name / f"{config.name}_val"
    if not (results / "label").is_dir():
        raise DataError(f"{results / 'label'}: no labels of this training yet; make them with main.py val")
    return results / "label"


def _names(names: list[str] | None, folders: list[Path]) -> list[str]:
    if names:
        if len(names) != len(folders) or len(set(names)) < len(names):
            raise ConfigError(f"--names takes {len(folders)} different names here, not {' '.join(names)}")
        return names
    if len(folders) == 1:
        return ["prediction"]
    if folders[1].name.startswith(_REFINED):
        return ["before", "after"]
    first, second = (folder.resolve().parts for folder in folders)
    different = next(
        (pair for pair in zip(reversed(first), reversed(second), strict=False) if pair[0] != pair[1]), None
    )
    return [*different] if different else ["before", "after"]


def _images(arguments: argparse.Namespace, info: DatasetInfo, keys: list[str]) -> dict[str, Path]:
    """Images by key; of the dataset only where all are there."""
    if arguments.images:
        images = index_files(list_files(arguments.images))
        missing = [key for key in keys if key not in images]
        if missing:
            raise DataError(
                f"{arguments.images}: {len(missing)} of {len(keys)} labels have no image there, such as {missing[0]}"
            )
        return images
    try:
        images = index_files(list_images(split_paths(info, Path(arguments.data_root) / info.folder, arguments.split)))
    except DataError as error:
        print(f"without images, name them by --images ({error})")
        return {}
    return images
