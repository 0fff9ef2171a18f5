"""``openseg segfix refine | auto | instances | tune``, and ``segfix.py`` and ``scripts/cityscapes/segfix*.py``."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from openseg.cli.common import EXIT_FOUND, call, run_command
from openseg.cli.options import Command, HelpFormatter, add_commands, option, result_file
from openseg.cli.scale import SCALE, large, run_large
from openseg.io.files import write_json
from openseg.tools.profile import data_root
from openseg.tools.report.text import refined_text, tune_text
from openseg.tools.scoring import first_of

__all__ = ["COMMANDS", "main"]

_REFINE = """Refine label maps of any model, with the refiner that comes with openseg or with SegFix offsets.

  python segfix.py --input labels --images images                         # needs nothing else
  python segfix.py auto --input labels --images images                    # adapts the refiner to these labels first
  python segfix.py --input labels --images images --checkpoint segfix.pth # a network of your own
  python segfix.py --input results/label --offset offset_pred/val/semantic/cityscapes/offset_hrnet48
  python segfix.py --input results/label --split val                      # finds the offsets, scores before and after

A label a.png is matched with the image or offset file of that name, with the same subfolders (Cityscapes names by city,
sequence and frame). Labels may have any ID space, 8 or 16 bits, a palette or RGB colors; values are copied, never
created. Without --offset and --images, these folders are searched: <data root>/<dataset>/val/offset_pred/semantic/
offset_* (test: <data root>/<dataset>/test_offset/semantic/offset_*), <data root>/<dataset>/offset_semantic.zip and
offset_pred/<split>/semantic/<dataset>/offset_*. With --split val, scores are computed before and after if every label
has ground truth in <data root>/<dataset>/val/label. Existing results are skipped. Unreadable files are skipped and
listed at the end. Exit codes: 0 success, 1 some files skipped, 2 error, 130 interrupted.
"""
_AUTO = """Adapt the refiner to a folder of label maps, without ground truth, and refine them.

It starts from the refiner that comes with openseg and learns from labels that this one refined, with errors added.
Held-out images decide whether the adapted refiner is better, at which image size it works best, and whether thin parts
are left alone. Everything is kept in <out>_auto; after Ctrl-C the same command continues there.
"""
_INSTANCES = """Refine instance masks, with the refiner that comes with openseg or with SegFix offsets.

  python scripts/cityscapes/segfix_instance.py --input results --split val      # Cityscapes: AP before and after
  python segfix.py instances --input results --images images --split test
  python segfix.py instances --input coco_instances_results.json --annotations instances_val.json --offset offsets

--input is a folder in the format of the Cityscapes benchmark (one <name>_pred.txt per image, each line with the path of
a mask, its class ID and a confidence), or a JSON file of COCO results (RLE or polygons). Names, classes and confidences
of masks are unchanged. With --split val, AP is computed before and after if every image has ground truth in
<data root>/<dataset>/val/instance, or for COCO results if --annotations includes ground truth.
"""
_TUNE = """Find the best scale, confidence and width for refining the labels of a model.

  python segfix.py tune --input labels/train --gt data/camvid/train/label --offset offsets/train --dataset camvid

Every combination is scored: mean IoU, boundary F-score at 1 and 3 pixels, and the class with the largest loss. The best
combination has the largest gain of the two F-scores among those that reduce neither mean IoU nor any class IoU by more
than 0.25 points. Use images that neither SegFix nor the model was trained on, and not those whose scores you report.
"""


def _refine(arguments: argparse.Namespace, function: str = "refine") -> int:
    if function == "refine":
        scale = large(arguments, arguments.labels, arguments.offsets, arguments.images, arguments.out)
        if scale is not None:
            return run_large("refine", arguments, scale, scale_pixels=arguments.scale)
    result = call(function, arguments, data_root=arguments.data_root or data_root())
    print(f"{result.refined} label maps: {result.out}")
    print(refined_text(result, "" if result.left_out else _report_command(arguments, result.out)))
    return _tell_left_out(result)


def _report_command(arguments: argparse.Namespace, out: Path) -> str:
    program = ["python", "main.py"] if Path(sys.argv[0]).suffix == ".py" else ["openseg"]
    words = [*program, "report", arguments.labels, "--compare", str(out), "--dataset", arguments.dataset]
    images = ["--images", arguments.images] if arguments.images else []
    return f"{shlex.join(words + images)} --gt DIR (or --no-gt)"


def _instances(arguments: argparse.Namespace) -> int:
    result = call("refine_instances", arguments, data_root=arguments.data_root or data_root())
    if not arguments.eval_only:
        what = "masks" if result.out.suffix == ".json" else "images"
        print(f"{result.refined} of {result.total} {what}: {result.out}")
    print(refined_text(result))
    return _tell_left_out(result)


def _tell_left_out(result: Any) -> int:
    if not result.left_out:
        return 0
    count, where = len(result.left_out), result.left_out_file
    print(f"error: {count} left out, all named in {where}: {first_of(result.left_out)}", file=sys.stderr)
    return EXIT_FOUND


def _tune(arguments: argparse.Namespace) -> None:
    result = call("tune", arguments)
    print(f"{result.images} of {result.total} images, {len(result.rows)} settings")
    print(tune_text(result.rows, result.before.compute(), result.best))
    if arguments.json:
        write_json(arguments.json, result.as_dict())


_JSON = option("--json FILE", "also write the table here", type=result_file(".json"))
_DATA_ROOT = option("--data-root DIR", "default: DATA_ROOT of config.profile")
COMMANDS = (
    Command("refine", _refine, _REFINE, "refine", "data_root", (_DATA_ROOT, *SCALE)),
    Command("auto", partial(_refine, function="refine_auto"), _AUTO, "refine_auto", "data_root", (_DATA_ROOT,)),
    Command("instances", _instances, _INSTANCES, "refine_instances", "data_root", (_DATA_ROOT,)),
    Command("tune", _tune, _TUNE, "tune", more=(_JSON,)),
)


def main(argv: Sequence[str] | None = None, command: str = "refine") -> int:
    """Run a program; without a command's name first, the one called ``command``. Returns the exit code."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    if not argv or argv[0] not in {each.name for each in COMMANDS}:
        argv = [command, *argv]
    parser = argparse.ArgumentParser(prog="segfix.py", formatter_class=HelpFormatter, allow_abbrev=False)
    add_commands(parser, COMMANDS, argv[0], prog="segfix.py")
    arguments = parser.parse_args(argv)
    return run_command(lambda: arguments.run(arguments), getattr(arguments, "debug", False))
