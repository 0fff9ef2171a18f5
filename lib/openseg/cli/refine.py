"""``segfix.py``: refine label maps of any model with SegFix offsets."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from openseg.cli.common import HelpFormatter, add_debug, add_workers, existing_dir, run_command
from openseg.cli.offset_source import find_offsets
from openseg.cli.profile import data_root
from openseg.datasets.registry import get_dataset_info
from openseg.datasets.splits import SplitPaths, list_images, match_labels, split_paths
from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.files import atomic_write, is_older, list_files
from openseg.io.matching import index_files, match_files, sample_key
from openseg.io.parallel import map_parallel
from openseg.io.results import claim_folder, list_given
from openseg.segfix import OffsetMap
from openseg.segfix.offset_files import OffsetFile, list_offsets
from openseg.tools.refining import Refining, refine_file, refine_label
from openseg.tools.scoring import first_of

if TYPE_CHECKING:
    from openseg.inference.offsets import SegFixPredictor
    from openseg.tools.report.html import Report

__all__ = ["add_offset_options", "list_labels", "main", "report_left_out", "require_matches", "todo_of"]

_DESCRIPTION = """Refine label maps of any model with SegFix offsets.

  python segfix.py --input results/label --offset offset_pred/val/semantic/cityscapes/offset_hrnet48
  python segfix.py --input results/label --split val          # finds the offsets, scores before and after
  python segfix.py --input labels --images images --checkpoint segfix.pth     # without offset files
  python segfix.py tune --input labels --gt truth --offset offsets            # which --scale, which --min-confidence
  python segfix.py instances --input results --offset offsets                 # masks, or COCO's JSON

A label a.png belongs to the offset a.png or a.mat (Cityscapes names meet by city, sequence and frame), in folders of
the same name if there are any. Labels may be in any id space, 8 or 16 bits, with or without a palette, or colors;
they are moved, never changed. Without --offset, the folders tried are <data root>/<dataset>/val/offset_pred/semantic/
offset_* (test: <data root>/<dataset>/test_offset/semantic/offset_*), <data root>/<dataset>/offset_semantic.zip and
offset_pred/<split>/semantic/<dataset>/offset_*. With --split val, labels that all have their truth in <data
root>/<dataset>/val/label are scored before and after.

What already exists is kept, so an interrupted call goes on where it stopped. Files that cannot be read are left out
and named at the end. Exit codes: 0 done, 1 some were left out, 2 a problem that the message names, 130 interrupted.
"""


def add_offset_options(parser: argparse.ArgumentParser, scale: int | None) -> None:
    """What refining labels and instances share."""
    parser.add_argument("--offset", metavar="DIR", help="offsets, also a zip archive (default: looked for, see above)")
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    default = scale or "by size: 2 for 1024x2048, 1 up to about 700 pixels of the shorter side"
    parser.add_argument("--scale", type=int, default=scale, metavar="N", help=f"pixels a step (default: {default})")
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="P",
        help="pixels whose direction is less sure stay (default: 0, all move)",
    )
    parser.add_argument(
        "--keep-thin",
        type=int,
        default=0,
        metavar="N",
        help="what is narrower than N pixels in the labels stays (default: 0, nothing)",
    )
    parser.add_argument(
        "--dataset", default="cityscapes", metavar="NAME", help="or a YAML file of your own (default: cityscapes)"
    )
    parser.add_argument("--data-root", metavar="DIR", help="default: DATA_ROOT of config.profile")
    parser.add_argument("--overwrite", action="store_true", help="make again what already exists")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first file that cannot be used")
    add_workers(parser)
    add_debug(parser)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="segfix.py", description=_DESCRIPTION, formatter_class=HelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--input", required=True, metavar="DIR", help="label PNGs to refine")
    parser.add_argument(
        "--out", metavar="DIR", help="default: label_w_segfix, beside an input named label, else inside the input"
    )
    parser.add_argument("--images", metavar="DIR", help="with --checkpoint: the images of the labels")
    parser.add_argument("--checkpoint", metavar="PTH", help="a SegFix network, instead of --offset")
    parser.add_argument(
        "--config", metavar="YAML", help="its config (default: as the checkpoint says, or the one that it fits)"
    )
    parser.add_argument("--device", default="auto", help="of the network: auto, cpu, cuda, cuda:1, ...")
    add_offset_options(parser, scale=None)
    parser.add_argument(
        "--train-ids", action="store_true", help="the labels hold training ids 0, 1, 2, ...; for scores"
    )
    parser.add_argument("--eval-ids-only", action="store_true", help="ids outside the evaluated classes become 255")
    parser.add_argument("--no-report", dest="report", action="store_false", help="no page about the images")
    parser.add_argument(
        "--figures", type=int, default=0, metavar="N", help="where scored: also draw N pictures of before and after"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] == "tune":
        from openseg.cli.tune import tune

        return tune(argv[1:])
    if argv and argv[0] == "instances":
        from openseg.cli.refine_instances import main as instances

        return instances(argv[1:])
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _run(arguments), arguments.debug)


REFINED = "label_w_segfix"
_NAMES = ("before", "after")


def _out_dir(folder: Path) -> Path:
    folder = folder.resolve()
    return folder.with_name(REFINED) if folder.name == "label" else folder / REFINED


def list_labels(source: Path) -> list[str]:
    """The label files to refine, relative to ``source``; what earlier calls wrote below it is left out.

    Raises:
        DataError: there are none.
    """
    return [path.relative_to(source).as_posix() for path in list_given(source, (".png",))]


def _run(arguments: argparse.Namespace) -> int:
    source = existing_dir(arguments.input, "label PNGs to refine")
    out = Path(arguments.out).resolve() if arguments.out else _out_dir(source)
    root = Path(arguments.data_root) if arguments.data_root else data_root()
    how = Refining(
        arguments.dataset, arguments.scale, arguments.min_confidence, arguments.eval_ids_only, arguments.keep_thin
    )
    if source.resolve().is_relative_to(out):
        raise DataError(f"--out {out}: would overwrite the labels in {source}; choose another folder")
    labels = list_labels(source)
    if arguments.images or arguments.checkpoint:
        problems = _refine_by_network(arguments, source, labels, out, how)
    else:
        problems = _refine_by_files(arguments, source, labels, out, how, root)
    print(f"{len(labels) - len(problems)} label maps: {out}")
    if arguments.split == "val":
        if problems:
            print(f"not scored: {len(problems)} label maps were left out")
        else:
            _score(arguments, [(source / name, out / name) for name in labels], root, out)
    return report_left_out(problems, len(labels), out)


def report_left_out(problems: Sequence[str], total: int, out: Path) -> int:
    """Names what was left out, and writes all of it beside ``out``; returns the exit code.

    Raises:
        DataError: that is all.
    """
    listed = out.with_name(f"{out.name}_left_out.txt")
    if not problems:
        listed.unlink(missing_ok=True)
        return 0
    if len(problems) >= total:
        raise DataError(first_of(problems))
    with atomic_write(listed) as temporary:
        temporary.write_text("".join(f"{problem}\n" for problem in problems), encoding="utf-8", errors="replace")
    print(f"error: {len(problems)} left out, all named in {listed}: {first_of(problems)}", file=sys.stderr)
    return 1


def require_matches(missing: Sequence[str], total: int, what: str, fail_fast: bool) -> list[str]:
    """What is wrong with files without a partner.

    Raises:
        DataError: all of them, or with ``fail_fast`` any.
    """
    problems = [f"{name} has no {what}" for name in missing]
    if problems and (fail_fast or len(problems) == total):
        raise DataError(f"{len(problems)} of {total} have no {what}: {first_of(problems)}")
    return problems


def todo_of(
    files: Sequence[tuple[Path, OffsetFile, Path]], out: Path, made_by: dict, overwrite: bool, suffixes: tuple[str, ...]
) -> list[tuple[Path, OffsetFile, Path]]:
    """What is still to do of (source, offset, output); see ``claim_folder``."""
    kept = claim_folder(out, made_by, suffixes, (".",), "overwrite" if overwrite else "replace")["."]

    def done(source: Path, offset: OffsetFile, target: Path) -> bool:
        if target.relative_to(out).as_posix() not in kept:
            return False
        offset_file = offset if isinstance(offset, Path) else offset.archive
        return not is_older(target, source) and not is_older(target, offset_file)

    todo = [each for each in files if not done(*each)]
    if len(todo) < len(files):
        print(f"{len(files) - len(todo)} of {len(files)} already exist; --overwrite makes them again")
    return todo


def _refine_by_files(
    arguments: argparse.Namespace, source: Path, labels: list[str], out: Path, how: Refining, root: Path
) -> list[str]:
    """Refine with offset files; returns what was left out."""
    place = Path(arguments.offset or find_offsets(arguments.split, arguments.dataset, root))
    print(f"offsets: {place}")
    offsets = list_offsets(place)
    matches, missing = match_files(labels, [*offsets])
    problems = require_matches(missing, len(labels), f"offset in {place}; predict it", arguments.fail_fast)
    work = [(source / name, offsets[offset], out / name) for name, offset in matches.items()]
    made_by = {"what": "refined labels", "labels": str(source.resolve()), "offsets": str(place.resolve())}
    todo = todo_of(work, out, made_by | how.settings, arguments.overwrite, (".png",))
    refine = partial(refine_file, how=how, fail_fast=arguments.fail_fast)
    return problems + [each for each in map_parallel(refine, todo, "segfix", arguments.workers) if each]


def _load(arguments: argparse.Namespace) -> tuple[SegFixPredictor, str]:
    """The network, and the hash of its file."""
    from openseg.cli.convert import recognize
    from openseg.config import load_config
    from openseg.inference.offsets import SegFixPredictor
    from openseg.io.files import file_hash
    from openseg.models.checkpoint.io import read_checkpoint

    if arguments.offset:
        raise ConfigError("--offset and --checkpoint exclude each other")
    if not arguments.checkpoint or not arguments.images:
        raise ConfigError("--images and --checkpoint belong together")
    if arguments.config:
        config = load_config(arguments.config)
    else:
        # Which dataset it was trained on does not matter, and its file may be elsewhere.
        config = recognize(read_checkpoint(arguments.checkpoint), dataset=arguments.dataset)
    predictor = SegFixPredictor(config, arguments.checkpoint, arguments.device)
    print(f"{arguments.checkpoint}: {predictor.report}", flush=True)
    return predictor, file_hash(arguments.checkpoint)


def _refine_by_network(
    arguments: argparse.Namespace, source: Path, labels: list[str], out: Path, how: Refining
) -> list[str]:
    """Refine with offsets that are predicted on the way; returns what was left out."""
    from openseg.datasets.loaders import ImageSet, iterate_images
    from openseg.io.parallel import Writers
    from openseg.io.progress import progress

    predictor, digest = _load(arguments)
    folder = existing_dir(arguments.images, "the images of the labels")
    images = {path.relative_to(folder).as_posix(): path for path in list_files(folder)}
    matches, missing = match_files(labels, [*images])
    problems = require_matches(missing, len(labels), f"image in {folder}", arguments.fail_fast)
    work = [(source / name, images[image], out / name) for name, image in matches.items()]
    made_by = {"what": "refined labels", "labels": str(source.resolve()), "images": str(folder.resolve())}
    made_by |= {"checkpoint": digest, **predictor.settings, **how.settings}
    todo = todo_of(work, out, made_by, arguments.overwrite, (".png",))
    jobs = {image: (label, target) for label, image, target in todo}
    if len(jobs) < len(todo):
        raise DataError(f"{folder}: an image belongs to two labels; give every label an image of its own name")
    broken: list[OpensegError] | None = None if arguments.fail_fast else []

    def write(image: Path, offsets: OffsetMap) -> None:
        label, target = jobs[image]
        try:
            refine_label(label, offsets, target, how, str(image))
        except DataError as error:
            if arguments.fail_fast:
                raise
            problems.append(str(error))

    pin = predictor.device.type == "cuda"
    items = iterate_images(ImageSet(predictor.config, [*jobs]), arguments.workers, pin, broken)
    with Writers() as writers:
        for item in progress(items, len(jobs), "segfix"):
            writers.submit(write, item["path"], predictor.predict(item["image"]))
    return problems + [str(error) for error in broken or ()]


def _score(arguments: argparse.Namespace, files: list[tuple[Path, Path]], root: Path, out: Path) -> None:
    """Scores before and after, and pictures of both, where every label has its truth."""
    from openseg.cli.report import write_page
    from openseg.tools.report.figures import write_comparisons
    from openseg.tools.report.tables import write_scores

    info = get_dataset_info(arguments.dataset)
    try:
        split = split_paths(info, root / info.folder, "val")
        truths = match_labels([before for before, _ in files], split)
        triples = [(before, after, truths[before]) for before, after in files]
        report = _report(arguments, triples, split)
        results = report.score()
    except DataError as error:
        print(f"not scored: {error}\nsee what changed: {_report_command(arguments, out)}")
        return
    scores = out.with_name(f"{out.name}_scores.json")
    write_scores(results, scores)
    print(f"\nscores: {scores}")
    if arguments.report:
        source = Path(arguments.input).resolve()
        name = source.parent.name if source.name == "label" else source.name
        write_page(report, out.with_name(f"{out.name}_report"), name)
    if arguments.figures:
        folder = out.with_name(f"{out.name}_figures")
        for path in write_comparisons(triples, split, arguments.dataset, folder, arguments.figures):
            print(f"picture: {path}")


def _report_command(arguments: argparse.Namespace, out: Path) -> str:
    program = ["openseg"] if Path(sys.argv[0]).name == "openseg-segfix" else ["python", "main.py"]  # as installed
    words = [*program, "report", arguments.input, "--compare", str(out), "--dataset", arguments.dataset]
    images = ["--images", arguments.images] if arguments.images else []
    return f"{shlex.join(words + images)} --gt DIR (or --no-gt)"


def _report(arguments: argparse.Namespace, triples: list[tuple[Path, Path, Path]], split: SplitPaths) -> Report:
    from openseg.tools.report.html import Report
    from openseg.tools.report.samples import Sample

    try:
        images = index_files(list_images(split))
    except DataError:
        images = {}
    samples = [
        Sample(sample_key(before), (before, after), truth, images.get(sample_key(before)))
        for before, after, truth in triples
    ]
    return Report(samples, _NAMES, arguments.dataset, arguments.train_ids, arguments.workers)
