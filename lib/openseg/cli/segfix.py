"""``openseg segfix refine | instances | tune``, and ``segfix.py`` and ``scripts/cityscapes/segfix*.py``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openseg.cli.common import (
    EXIT_FOUND,
    HelpFormatter,
    add_debug,
    add_device,
    add_json,
    add_metrics,
    add_workers,
    call,
    run_command,
)
from openseg.cli.profile import data_root
from openseg.io.files import write_json
from openseg.tools.report.tables import scores_text
from openseg.tools.report.text import tune_text
from openseg.tools.scoring import first_of

__all__ = ["add_segfix", "main"]

_REFINE = """Refine label maps of any model with SegFix offsets.

  python segfix.py --input results/label --offset offset_pred/val/semantic/cityscapes/offset_hrnet48
  python segfix.py --input results/label --split val          # finds the offsets, scores before and after
  python segfix.py --input labels --images images --checkpoint segfix.pth     # without offset files
  python segfix.py tune --input labels --gt truth --offset offsets            # which --scale, which --min-confidence
  python segfix.py instances --input results --offset offsets                 # masks, or COCO's JSON

A label a.png belongs to the offset a.png or a.mat (Cityscapes names by city, sequence and frame), in folders of
the same name if there are any. Labels may be in any ID space, 8 or 16 bits, with or without a palette, or colors;
they are moved, never changed. Without --offset, the folders tried are <data root>/<dataset>/val/offset_pred/semantic/
offset_* (test: <data root>/<dataset>/test_offset/semantic/offset_*), <data root>/<dataset>/offset_semantic.zip and
offset_pred/<split>/semantic/<dataset>/offset_*. With --split val, labels that all have their ground truth in <data
root>/<dataset>/val/label are scored before and after.

Existing results are skipped, so an interrupted call resumes where it stopped. Files that cannot be read are left out
and named at the end. Exit codes: 0 done, 1 some were left out, 2 a problem that the message names, 130 interrupted.
"""
_INSTANCES = """Refine the masks of objects with SegFix offsets.

  python scripts/cityscapes/segfix_instance.py --input results --split val      # Cityscapes: AP before and after
  python segfix.py instances --input results --offset offsets --split test
  python segfix.py instances --input coco_instances_results.json --annotations instances_val.json --offset offsets

--input is a folder as the Cityscapes benchmark takes it: one <name>_pred.txt an image, whose lines are a mask's path,
the ID of its class and a confidence; or a list of COCO's results (RLE or polygons) as JSON. Masks keep their names,
classes and confidences. With --split val, results that all have their ground truth in
<data root>/<dataset>/val/instance are scored, and so are COCO's where --annotations holds the ground truth.
"""
_TUNE = """Find the scale and the confidence that refine the labels of a model best.

  python segfix.py tune --input labels/train --gt data/camvid/train/label --offset offsets/train --dataset camvid

Every combination is tried and scored: mean IoU, the boundary F-score at 1 and 3 pixels, and the class that loses most.
The best is the one with the largest gain of the two F-scores among those that cost no mean IoU and no class more than a
quarter of a point. Use images that neither SegFix nor the model was trained on, and others than those whose scores you
will report.
"""
_COMMANDS = ("refine", "instances", "tune")
Parser = argparse.ArgumentParser


def add_segfix(parser: Parser, prog: str) -> None:
    """The three commands below ``parser``; ``prog`` is how it is called."""
    commands = parser.add_subparsers(dest="segfix_command", required=True, metavar="command")

    def add(name: str, description: str, run: Callable[[argparse.Namespace], int | None]) -> Parser:
        title = prog if name == "refine" and prog == "segfix.py" else f"{prog} {name}"
        sub = commands.add_parser(
            name,
            prog=title,
            help=description.partition("\n")[0],
            description=description,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
        )
        sub.set_defaults(run=run)
        return sub

    _add_refine(add("refine", _REFINE, _refine))
    _add_instances(add("instances", _INSTANCES, _instances))
    _add_tune(add("tune", _TUNE, _tune))


def main(argv: Sequence[str] | None = None, command: str = "refine") -> int:
    """Run a program; without a command's name first, the one called ``command``. Returns the exit code."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    parser = Parser(prog="segfix.py", formatter_class=HelpFormatter, allow_abbrev=False)
    add_segfix(parser, "segfix.py")
    arguments = parser.parse_args(argv if argv[:1] and argv[0] in _COMMANDS else [command, *argv])
    return run_command(lambda: arguments.run(arguments), arguments.debug)


def _add_offsets(parser: Parser, scale: int | None) -> None:
    """What refining labels and instances share."""
    text = "offsets, also a zip archive (default: looked for, see above)"
    parser.add_argument("--offset", dest="offsets", metavar="DIR", help=text)
    parser.add_argument("--split", choices=("val", "test"), default="val", help="default: val")
    shown = scale or "by size: 2 for 1024x2048, 1 up to about 700 pixels of the shorter side"
    parser.add_argument("--scale", type=int, default=scale, metavar="N", help=f"pixels a step (default: {shown})")
    text = "pixels whose direction is less sure stay (default: 0, all move)"
    parser.add_argument("--min-confidence", type=float, default=0.0, metavar="P", help=text)
    text = "what is narrower than N pixels in the labels stays (default: 0, nothing)"
    parser.add_argument("--keep-thin", type=int, default=0, metavar="N", help=text)
    _add_dataset(parser)
    parser.add_argument("--data-root", metavar="DIR", help="default: DATA_ROOT of config.profile")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing results")
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first file that cannot be used")
    add_workers(parser)
    add_debug(parser)


def _add_dataset(parser: Parser) -> None:
    text = "or a YAML file of your own (default: cityscapes)"
    parser.add_argument("--dataset", default="cityscapes", metavar="NAME", help=text)


def _add_refine(parser: Parser) -> None:
    parser.add_argument("--input", dest="labels", required=True, metavar="DIR", help="label PNGs to refine")
    text = "default: label_w_segfix, beside an input named label, else inside the input"
    parser.add_argument("--out", metavar="DIR", help=text)
    parser.add_argument("--images", metavar="DIR", help="with --checkpoint: the images of the labels")
    parser.add_argument("--checkpoint", metavar="PTH", help="a SegFix network, instead of --offset")
    text = "its config (default: as the checkpoint says, or the one that it fits)"
    parser.add_argument("--config", metavar="YAML", help=text)
    add_device(parser)
    _add_offsets(parser, scale=None)
    text = "the labels hold train IDs 0, 1, 2, ...; for scores"
    parser.add_argument("--train-ids", action="store_true", help=text)
    parser.add_argument("--eval-ids-only", action="store_true", help="IDs outside the evaluated classes become 255")
    parser.add_argument("--no-report", dest="report", action="store_false", help="no HTML report")
    text = "where scored: also draw N figures of before and after"
    parser.add_argument("--figures", type=int, default=0, metavar="N", help=text)
    add_metrics(parser)


def _add_instances(parser: Parser) -> None:
    text = "folder of *_pred.txt and masks, or a JSON file"
    parser.add_argument("--input", dest="masks", required=True, metavar="DIR", help=text)
    text = "default: <input>_w_segfix beside the input; of JSON a JSON file"
    parser.add_argument("--out", metavar="DIR", help=text)
    text = "COCO's: file names of the images, and their ground truth"
    parser.add_argument("--annotations", metavar="JSON", help=text)
    text = "only score what is in --input and in --out"
    parser.add_argument("--eval_only", "--eval-only", action="store_true", help=text)
    _add_offsets(parser, scale=1)
    text = "the dataset's folder (default: <data root>/<dataset>)"
    parser.add_argument("--dataset_dir", "--dataset-dir", metavar="DIR", help=text)


def _add_tune(parser: Parser) -> None:
    parser.add_argument("--input", dest="labels", required=True, metavar="DIR", help="labels of a model")
    parser.add_argument("--gt", dest="ground_truth", required=True, metavar="DIR", help="their ground truth")
    text = "offsets of their images, also a zip archive"
    parser.add_argument("--offset", dest="offsets", required=True, metavar="DIR", help=text)
    _add_dataset(parser)
    parser.add_argument("--scales", type=_integers, metavar="N,N", help="to try, in pixels (default: 1,2,3)")
    text = "to try (default: 0,0.2,0.3,0.4,0.5,0.6)"
    parser.add_argument("--confidences", type=_fractions, metavar="P,P", help=text)
    parser.add_argument("--keep-thin", type=_integers, metavar="N,N", help="to try, in pixels (default: 0,5)")
    parser.add_argument("--train-ids", action="store_true", help="the labels hold train IDs 0, 1, 2, ...")
    add_json(parser, "also write the table here")
    add_workers(parser)
    add_debug(parser)


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


def _with_data_root(arguments: argparse.Namespace) -> argparse.Namespace:
    arguments.data_root = arguments.data_root or data_root()
    return arguments


def _refine(arguments: argparse.Namespace) -> int:
    result = call("refine", _with_data_root(arguments))
    print(f"{result.refined} label maps: {result.out}")
    if result.scores:
        print(f"{scores_text(result.scores)}\n\nscores: {result.files['scores'][0]}")
        for path in result.files.get("report", ()):
            print(f"report: {path}")
        for path in result.files.get("figures", ()):
            print(f"figure: {path}")
    elif result.not_scored:
        print(f"not scored: {result.not_scored}")
        if not result.left_out:
            print(f"see what changed: {_report_command(arguments, result.out)}")
    return _tell_left_out(result)


def _report_command(arguments: argparse.Namespace, out: Path) -> str:
    program = ["python", "main.py"] if Path(sys.argv[0]).suffix == ".py" else ["openseg"]
    words = [*program, "report", arguments.labels, "--compare", str(out), "--dataset", arguments.dataset]
    images = ["--images", arguments.images] if arguments.images else []
    return f"{shlex.join(words + images)} --gt DIR (or --no-gt)"


def _instances(arguments: argparse.Namespace) -> int:
    result = call("refine_instances", _with_data_root(arguments))
    is_json = result.out.suffix == ".json"
    if not arguments.eval_only:
        counted = f"{result.refined} of {result.total} masks" if is_json else f"{result.refined} images"
        print(f"{counted}: {result.out}")
    if result.scores and is_json:
        print("AP of masks, COCO:")
        for name, values in result.scores.items():
            print("  ".join([f"{name:7}", *(f"{key} {100 * value:.2f}" for key, value in values.items())]))
    elif result.scores:
        print(f"{scores_text(result.scores)}\n\nscores: {result.files['scores'][0]}")
    elif result.not_scored:
        print(f"not scored: {result.not_scored}")
    return _tell_left_out(result)


def _tell_left_out(result: Any) -> int:
    if not result.left_out:
        return 0
    count, where = len(result.left_out), result.left_out_file
    print(f"error: {count} left out, all named in {where}: {first_of(result.left_out)}", file=sys.stderr)
    return EXIT_FOUND


def _tune(arguments: argparse.Namespace) -> None:
    for name in ("scales", "confidences", "keep_thin"):  # which have defaults of their own
        if getattr(arguments, name) is None:
            delattr(arguments, name)
    result = call("tune", arguments)
    print(f"{result.images} of {result.total} images, {len(result.rows)} settings")
    print(tune_text(result.rows, result.before.compute(), result.best))
    if arguments.json:
        write_json(arguments.json, result.as_dict())
