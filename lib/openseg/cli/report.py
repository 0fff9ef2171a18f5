"""``main.py report``: a page to look at labels with; needs no torch."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from openseg.catalog import Catalog, get_catalog
from openseg.cli.common import add_workers
from openseg.cli.evaluate import truths_of
from openseg.data.folder import list_images, split_paths
from openseg.errors import ConfigError, DataError
from openseg.files import LABEL_SUFFIXES, index_files, list_files, list_given

__all__ = ["add_report", "report", "tell_report"]

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
    parser.add_argument("--compare", metavar="DIR", help="other labels of the same images, such as sharpened ones")
    parser.add_argument("--names", nargs="+", metavar="NAME", help="of the two (default: before and after, or folders)")
    parser.add_argument("--dataset", help="whose ids the labels hold: a name, or a YAML file of your own")
    parser.add_argument("--gt", metavar="DIR", help="true labels (default: the data set's, of --split)")
    parser.add_argument("--no-gt", action="store_true", help="there is no truth: show the labels, and what differs")
    parser.add_argument("--images", metavar="DIR", help="default: the data set's, of --split, if they are there")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="default: data")
    parser.add_argument("--train-ids", action="store_true", help="the labels hold training ids 0, 1, 2, ...")
    parser.add_argument("--allow-missing", action="store_true", help="report what can be, and say what is left out")
    parser.add_argument(
        "--limit", type=int, default=500, metavar="N", help="images that are shown; scores are of all (default: 500)"
    )
    parser.add_argument("--out", metavar="DIR", help="default: report inside DIR, or beside a folder of labels")
    add_workers(parser)


def report(arguments: argparse.Namespace) -> None:
    """Write the page and print the scores."""
    from openseg.engine.scoring import first_of, match_predictions, require_none
    from openseg.report.html import curves_of, write_report
    from openseg.report.samples import Sample
    from openseg.report.tables import write_scores

    if arguments.limit < 1:
        raise ConfigError(f"--limit {arguments.limit}: show at least one image")
    found = _input(arguments)
    if not arguments.dataset:
        raise ConfigError("--dataset says whose ids the labels hold, for example --dataset cityscapes")
    catalog = get_catalog(arguments.dataset)
    folders = [found.labels] if found.compare is None else [found.labels, found.compare]
    names = _names(arguments.names, folders)
    predictions = [index_files(list_given(folder, LABEL_SUFFIXES), "_pred") for folder in folders]
    instances: dict[str, Path] = {}
    truths: dict[str, Path] = {}
    if not arguments.no_gt:
        truths, instances = truths_of(arguments, catalog)
    wanted = truths or predictions[0]
    problems = [text for folder in folders for text in match_predictions(folder, wanted, LABEL_SUFFIXES).problems]
    if problems and not arguments.allow_missing:
        require_none(problems, "; mend that, or report the rest with --allow-missing")
    keys = [key for key in wanted if all(key in each for each in predictions)]
    images = _images(arguments, catalog, keys)
    samples = [Sample(key, tuple(each[key] for each in predictions), truths.get(key), images.get(key)) for key in keys]
    curves = curves_of(found.metrics) if found.metrics else []
    results = write_report(
        found.out,
        samples,
        names,
        arguments.dataset,
        _title(found, names),
        instances=instances,
        curves=curves,
        train_ids=arguments.train_ids,
        workers=arguments.workers,
        limit=arguments.limit,
    )
    if results:
        write_scores(results)
    if problems:
        print(f"left out: {len(problems)} ({first_of(problems)})")
    tell_report(found.out)


def tell_report(folder: Path) -> None:
    """Say where the page is."""
    from openseg.report.html import PAGE

    print(f"report: {folder / PAGE}")


def _input(arguments: argparse.Namespace) -> _Input:
    """What the positional argument means; of a training it also fills in the data set."""
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
    out = out or folder.with_name(f"{folder.resolve().name}_report")
    return _Input(folder, compare or _if_there(folder / _REFINED), out)


def _title(found: _Input, names: list[str]) -> str:
    folder = found.labels.resolve()
    name = folder.parent.name if folder.name == "label" else folder.name
    return name if names in (["prediction"], ["before", "after"]) else " and ".join(names)


def _if_there(path: Path) -> Path | None:
    return path if path.exists() else None


def _labels_of_training(arguments: argparse.Namespace, config: Path) -> Path:
    from openseg.config import load_experiment

    experiment = load_experiment(config)
    if experiment.task != "semantic":
        raise ConfigError(f"{config}: a training of task {experiment.task}; report labels that its offsets sharpened")
    arguments.dataset = arguments.dataset or experiment.data.dataset
    arguments.data_root = experiment.data.root
    results = experiment.data.root / "seg_result" / experiment.catalog.name / f"{experiment.name}_val"
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


def _images(arguments: argparse.Namespace, catalog: Catalog, keys: list[str]) -> dict[str, Path]:
    """Images by key; of the data set only where all are there."""
    if arguments.images:
        images = index_files(list_files(arguments.images))
        missing = [key for key in keys if key not in images]
        if missing:
            raise DataError(
                f"{arguments.images}: {len(missing)} of {len(keys)} labels have no image there, such as {missing[0]}"
            )
        return images
    try:
        images = index_files(
            list_images(split_paths(catalog, Path(arguments.data_root) / catalog.folder, arguments.split))
        )
    except DataError as error:
        print(f"without images, name them by --images ({error})")
        return {}
    return images
