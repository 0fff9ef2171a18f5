"""``main.py evaluate``: scores of label files and instance masks of any model; needs no torch."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from openseg.cli.common import add_workers
from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_truths, require_partners, split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, list_files
from openseg.io.matching import index_files

if TYPE_CHECKING:
    from openseg.metrics import InstanceScores, LabelScores

__all__ = ["add_evaluate", "evaluate", "instance_maps", "truths_of"]

_RAW_LABELS, _RAW_INSTANCES = "_labelIds", "_instanceIds"


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Options of ``evaluate``."""
    parser.add_argument("--dataset", required=True, help="whose ids the files hold: a name, or a YAML file of your own")
    parser.add_argument("--pred", required=True, nargs="+", metavar="DIR", help="one or more folders to compare")
    parser.add_argument(
        "--gt", metavar="DIR", help="folder of true labels, such as gtFine/val (default: the dataset's, of --split)"
    )
    parser.add_argument("--split", default="val", help="without --gt (default: val)")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="without --gt (default: data)")
    parser.add_argument(
        "--instances", action="store_true", help="--pred holds instance masks: <name>_pred.txt lists; AP instead of IoU"
    )
    parser.add_argument("--train-ids", action="store_true", help="--pred holds training ids 0, 1, 2, ...")
    parser.add_argument(
        "--allow-missing", action="store_true", help="score what can be scored, and say what is left out"
    )
    parser.add_argument(
        "--distances",
        type=_distances,
        metavar="N,N",
        help="of the boundary F-score, in pixels (default: 1,3,5,9,12); none: no boundary scores, faster",
    )
    parser.add_argument("--per-image", action="store_true", help="also boundary F-scores averaged over images")
    parser.add_argument("--json", metavar="FILE", help="also write every score here")
    parser.add_argument("--markdown", metavar="FILE", help="also write the tables here")
    parser.add_argument("--csv", metavar="FILE", help="also write the confusion matrices here")
    add_workers(parser)


def _distances(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    parts = text.split(",")
    if not all(part.isdigit() and 0 < int(part) <= 100 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pixels such as 1,3,5, or none")
    return tuple(sorted({int(part) for part in parts}))


def evaluate(arguments: argparse.Namespace) -> None:
    """Score folders of predictions side by side."""
    from openseg.tools.report.tables import write_scores
    from openseg.tools.scoring import match_predictions, require_none

    if arguments.instances and (arguments.csv or arguments.train_ids):
        raise ConfigError("--csv and --train-ids belong to label maps, not to --instances")
    info = get_dataset_info(arguments.dataset)
    truths, instances = truths_of(arguments, info)
    suffixes = (".txt",) if arguments.instances else LABEL_SUFFIXES
    matched = {folder: match_predictions(folder, truths, suffixes) for folder in arguments.pred}
    fix = "" if arguments.allow_missing else "; fix that, or score the rest with --allow-missing"
    results, left_out = {}, {}
    for folder, found in matched.items():
        problems = list(found.problems)
        if fix:
            require_none(problems, fix)
        if not found.pairs:
            example = next(iter(truths.values()))
            raise DataError(f"{folder}: no prediction shares its name with a truth, such as {example}")
        results[folder] = _score(arguments, found.pairs, instances, problems)
        if fix or len(problems) - len(found.problems) == len(found.pairs):
            require_none(problems, fix)
        if problems:
            left_out[folder] = problems
    if arguments.instances and all(np.isnan(scores.compute()["AP"]) for scores in results.values()):
        raise DataError(f"no truth such as {next(iter(truths.values()))} holds an object of 100 pixels (id * 1000 + n)")
    files = (Path(each) if each else None for each in (arguments.json, arguments.markdown, arguments.csv))
    write_scores(results, *files, images=arguments.per_image, left_out=left_out)


def truths_of(arguments: argparse.Namespace, info: DatasetInfo) -> tuple[dict[str, Path], dict[str, Path]]:
    """Truths by key, label maps or with --instances instance maps; and instance maps for the iIoU of Cityscapes."""
    wants_masks = getattr(arguments, "instances", False)
    if arguments.gt:
        labels, instances = _raw_truths(Path(arguments.gt))
        if wants_masks:
            return instances or labels, {}
        if instances:
            require_partners(labels, instances, "instance map", Path(arguments.gt))
        return labels, instances
    split = split_paths(info, Path(arguments.data_root) / info.folder, arguments.split)
    labels = list_truths(split)
    if not wants_masks:
        return labels, instance_maps(info, split, labels)
    if not split.instance.is_dir():
        raise DataError(f"{split.instance}: no such folder of instance maps; prepare them, or name one by --gt")
    maps = index_files(list_files(split.instance, LABEL_SUFFIXES))
    require_partners(labels, maps, "instance map", split.instance)
    return {key: maps[key] for key in labels}, {}


def _score(
    arguments: argparse.Namespace,
    pairs: dict[str, tuple[Path, Path]],
    instances: dict[str, Path],
    problems: list[str],
) -> LabelScores | InstanceScores:
    from openseg.metrics import DISTANCES
    from openseg.tools.scoring import ScoredPair, score_files, score_instances

    if arguments.instances:
        return score_instances([*pairs.values()], arguments.dataset, workers=arguments.workers, problems=problems)
    work = [ScoredPair(*pair, instances.get(key)) for key, pair in pairs.items()]
    return score_files(
        work,
        arguments.dataset,
        DISTANCES if arguments.distances is None else arguments.distances,
        workers=arguments.workers,
        train_ids=arguments.train_ids,
        problems=problems,
    )


def _raw_truths(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Labels and instance maps of a folder; of Cityscapes' own one also holds other files of the same names."""
    files = list_files(folder, LABEL_SUFFIXES)
    labels = [path for path in files if path.stem.endswith(_RAW_LABELS)]
    instances = [path for path in files if path.stem.endswith(_RAW_INSTANCES)]
    return index_files(labels or files), index_files(instances)


def instance_maps(info: DatasetInfo, split: SplitPaths, keys: Collection[str]) -> dict[str, Path]:
    """The instance maps of Cityscapes' samples, where the split has all of them; for iIoU."""
    from openseg.metrics import CityscapesCounts

    if not CityscapesCounts.fits(info) or not split.instance.is_dir():
        return {}
    maps = index_files(list_files(split.instance, LABEL_SUFFIXES))
    missing = sum(key not in maps for key in keys)
    if missing:
        print(f"no iIoU: {missing} of {len(keys)} instance maps are not in {split.instance}")
        return {}
    return {key: maps[key] for key in keys}
