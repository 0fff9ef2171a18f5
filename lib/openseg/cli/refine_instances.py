"""``segfix.py instances``: refine the masks of objects with SegFix offsets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from openseg.cli.common import HelpFormatter, existing_dir, run_command
from openseg.cli.offset_source import find_offsets
from openseg.cli.profile import data_root
from openseg.cli.refine import add_offset_options, report_left_out, require_matches, todo_of
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import split_paths
from openseg.errors import ConfigError, DataError
from openseg.io.files import LABEL_SUFFIXES, atomic_write, is_older, list_files
from openseg.io.images import read_label, require_same_size, write_label
from openseg.io.matching import index_files, match_files, sample_key
from openseg.io.parallel import map_parallel
from openseg.segfix import read_offset_map
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.refining import Refining
from openseg.tools.scoring import list_instances

__all__ = ["main"]

_DESCRIPTION = """Refine the masks of objects with SegFix offsets.

  python scripts/cityscapes/segfix_instance.py --input results --split val      # Cityscapes: AP before and after
  python segfix.py instances --input results --offset offsets --split test
  python segfix.py instances --input coco_instances_results.json --annotations instances_val.json --offset offsets

--input is a folder as the Cityscapes benchmark takes it: one <name>_pred.txt an image, whose lines are a mask's path,
the id of its class and a confidence; or a list of COCO's results (RLE or polygons) as JSON. Masks keep their names,
classes and confidences. With --split val, results that all have their truth in <data root>/<dataset>/val/instance are
scored, and so are COCO's where --annotations holds the truth.
"""
_LIST = "_pred"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segfix.py instances", description=_DESCRIPTION, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="folder of *_pred.txt and masks, or a JSON file")
    parser.add_argument("--out", metavar="DIR", help="default: <input>_w_segfix beside the input; of JSON a JSON file")
    parser.add_argument("--annotations", metavar="JSON", help="COCO's: file names of the images, and their truth")
    parser.add_argument(
        "--eval_only", "--eval-only", action="store_true", help="only score what is in --input and in --out"
    )
    add_offset_options(parser, scale=1)
    parser.add_argument(
        "--dataset_dir", "--dataset-dir", metavar="DIR", help="the dataset's folder (default: <data root>/<dataset>)"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments), arguments.debug)


def _offsets(arguments: argparse.Namespace) -> tuple[Path, dict[str, OffsetFile]]:
    root = Path(arguments.data_root) if arguments.data_root else data_root()
    place = Path(arguments.offset or find_offsets(arguments.split, arguments.dataset, root, "instance"))
    print(f"offsets: {place}")
    return place, list_offsets(place)


def _run(arguments: argparse.Namespace) -> int:
    how = Refining(arguments.dataset, arguments.scale, arguments.min_confidence, keep_thin=arguments.keep_thin)
    source = Path(arguments.input)
    if source.suffix.lower() == ".json":
        from openseg.cli.refine_coco import refine_coco

        if arguments.eval_only:
            raise ConfigError("--eval_only is for folders of *_pred.txt")
        out = Path(arguments.out or source.with_name(f"{source.stem}_w_segfix.json")).resolve()
        return refine_coco(source, out, _offsets(arguments)[1], how, arguments)
    source = existing_dir(source, "masks and their lists, *_pred.txt").resolve()
    out = Path(arguments.out or source.with_name(f"{source.name}_w_segfix")).resolve()
    if source.is_relative_to(out) or out.is_relative_to(source):
        raise DataError(f"--out {out}: choose a folder beside {source}, not around it or inside")
    lists = [path.relative_to(source) for path in list_files(source, (".txt",)) if path.stem.endswith(_LIST)]
    if not lists:
        raise DataError(f"{source}: holds no *{_LIST}.txt")
    problems: list[str] = []
    if not arguments.eval_only:
        problems = _refine(arguments, source, out, lists, how)
        print(f"{len(lists) - len(problems)} images: {out}")
    if arguments.split == "val" and problems:
        print(f"not scored: {len(problems)} images were left out")
    elif arguments.split == "val" or arguments.eval_only:
        try:
            _score(arguments, source, out, lists)
        except DataError as error:
            if arguments.eval_only:
                raise
            print(f"not scored: {error}")
    return report_left_out(problems, len(lists), out)


def _image_name(path: Path) -> str:
    return path.with_name(path.stem.removesuffix(_LIST) + path.suffix).as_posix()


def _refine(arguments: argparse.Namespace, source: Path, out: Path, lists: list[Path], how: Refining) -> list[str]:
    """Refine all images; returns what was left out."""
    place, offsets = _offsets(arguments)
    names = {_image_name(path): path for path in lists}
    matches, missing = match_files([*names], [*offsets])
    problems = require_matches(missing, len(lists), f"offset in {place}; predict it", arguments.fail_fast)
    work = [(source / names[name], offsets[found], out / names[name]) for name, found in matches.items()]
    made_by = {"what": "refined instances", "masks": str(source), "offsets": str(place.resolve())}
    todo = set(todo_of(work, out, made_by | how.settings, arguments.overwrite, (".png", ".txt")))
    todo = [job for job in work if job in todo or not _masks_are_done(job[0], source, out)]
    refined = partial(_refine_image, source=source, out=out, how=how, fail_fast=arguments.fail_fast)
    problems += [each for each in map_parallel(refined, todo, "segfix", arguments.workers) if each]
    return problems


def _masks(listed: Path, source: Path) -> dict[Path, Path]:
    """The masks of a list, and their paths relative to ``source``.

    Raises:
        DataError: one leads out of that folder, or the list cannot be read.
    """
    masks = {}
    for path in list_instances(listed):
        plain = Path(os.path.normpath(path))  # not resolved: a link inside the folder is the user's own
        if not plain.is_relative_to(source):
            raise DataError(f"{listed}: {os.path.relpath(path, listed.parent)} leads out of {source}")
        masks[plain] = plain.relative_to(source)
    return masks


def _masks_are_done(listed: Path, source: Path, out: Path) -> bool:
    """Whether all masks of a list have a refined one that is no older."""
    try:
        masks = _masks(listed, source)
    except DataError:
        return False
    return all(
        path.is_file() and (out / inside).is_file() and not is_older(out / inside, path)
        for path, inside in masks.items()
    )


def _refine_image(
    files: tuple[Path, OffsetFile, Path], source: Path, out: Path, how: Refining, fail_fast: bool
) -> str | None:
    """Refine the masks of one image, its list being written last; returns what is wrong, or None."""
    listed, offset, target = files
    try:
        masks, offsets = _masks(listed, source), read_offset_map(offset)
        for path, inside in masks.items():
            mask = read_label(path) > 0
            require_same_size(path, mask.shape, offset, offsets.shape)
            write_label(out / inside, how.mask(mask, offsets).astype(np.uint8) * np.uint8(255))
        with atomic_write(target, durable=False) as temporary:
            temporary.write_bytes(listed.read_bytes())
    except DataError as error:
        if fail_fast:
            raise
        return str(error)
    return None


def _score(arguments: argparse.Namespace, source: Path, out: Path, lists: list[Path]) -> None:
    """AP before and after.

    Raises:
        DataError: an image has no truth, or a file cannot be read.
    """
    from openseg.tools.report.tables import write_scores
    from openseg.tools.scoring import score_instances

    info = get_dataset_info(arguments.dataset)
    root = Path(arguments.data_root) if arguments.data_root else data_root()
    folder = Path(arguments.dataset_dir) if arguments.dataset_dir else root / info.folder
    split = split_paths(info, folder, "val")
    truths = index_files(list_files(split.instance, LABEL_SUFFIXES))
    keys = {path: sample_key(_image_name(path)) for path in lists}
    for path, key in keys.items():
        if key not in truths:
            raise DataError(f"{path} has no truth in {split.instance}")
    if len(set(keys.values())) < len(truths):
        print(f"{len(truths) - len(set(keys.values()))} images of {split.instance} have no result and are not scored")
    results = {
        name: score_instances(
            [(base / path, truths[key]) for path, key in keys.items()],
            arguments.dataset,
            what=f"score {name}",
            workers=arguments.workers,
        )
        for name, base in (("before", source), ("after", out))
    }
    scores = out.with_name(f"{out.name}_scores.json")
    write_scores(results, scores)
    print(f"\nscores: {scores}")
