"""``main.py`` and ``openseg``: every command and its options, mapped to the keyword function of the same name."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from openseg.cli.common import EXIT_FOUND, call, run_command, shown_errors
from openseg.cli.options import DEBUG, Command, HelpFormatter, add_commands, add_options, flag, option, result_file
from openseg.cli.prepare import show_targets
from openseg.cli.scale import RECORDS, SCALE, large, merge, only_one, run_large
from openseg.cli.segfix import COMMANDS as SEGFIX
from openseg.errors import ConfigError, DataError, printable
from openseg.io.files import write_json
from openseg.tools.report import tables
from openseg.tools.report.text import benchmark_text, check_text, inspect_text, label_text, quantized_text, version_text

__all__ = ["main", "make_parser"]

_DESCRIPTION = """Train, evaluate and refine semantic segmentation.

  python main.py check    --config configs/camvid/hrnet18_ocr.yaml
  python main.py train    --config configs/camvid/hrnet18_ocr.yaml
  python main.py val      --config configs/camvid/hrnet18_ocr.yaml
  python main.py predict  my_images --config configs/camvid/hrnet18_ocr.yaml
  python main.py offsets  --config configs/camvid/segfix_hrnet_small.yaml --split val
  python main.py segfix   refine --input labels --offset offsets
  python main.py report   data/seg_result/camvid/hrnet_w18_ocr_1_val --dataset camvid
  python main.py evaluate --dataset camvid --pred predictions --gt data/camvid/val/label

Exit codes: 0 success; 1 files were skipped (predict, offsets, segfix) or problems found (check, inspect, labels);
2 error; 130 interrupted.
"""
_EVALUATE = "Evaluate predictions of any model: mIoU, accuracy, boundary F, boundary IoU, AP."
Arguments = argparse.Namespace


def _train(arguments: Arguments) -> None:
    call("train", arguments)


def _resume(arguments: Arguments) -> None:
    call("train", arguments, resume="must")


def _val(arguments: Arguments) -> None:
    result = call("validate", arguments)
    if result.scores is not None:
        print(tables.scores_text({Path(result.files["json"]).parent.name: result.scores}))
        if result.report is not None:
            print(f"report: {result.report}")
        print(f"labels: {result.labels}\nscores: {result.files['json']}, scores.md and confusion.csv beside it")


def _verify(arguments: Arguments) -> int:
    result = call("verify", arguments)
    limit = f"{'within' if result.verified.accepted else 'beyond'} --max-loss {result.verified.max_loss:g}"
    print(f"{result.verified}; {limit}\nrecorded: {result.file}")
    return 0 if result.verified.accepted else EXIT_FOUND


def _test(arguments: Arguments) -> None:
    print(f"labels: {call('test', arguments).labels}")


def _predict(arguments: Arguments) -> int:
    more = [each for each in arguments.overrides if "=" not in each]
    if more:
        raise DataError(f"{more[0]}: predict takes one INPUT; put several images into a folder")
    scale = large(arguments, arguments.images, arguments.out)
    if scale is not None:
        return run_large("predict", arguments, scale)
    result = call("predict", arguments)
    print(f"{', '.join(result.kinds)}: {result.folder}")
    return shown_errors(result.left_out)


def _offsets(arguments: Arguments) -> int:
    result = call("predict_offsets", arguments)
    print(f"offsets: {result.folder}")
    return shown_errors(result.left_out)


def _evaluate(arguments: Arguments) -> int:
    scale = large(arguments, *arguments.predictions, arguments.ground_truth, arguments.out)
    if scale is not None:
        if arguments.instances:
            raise ConfigError("--instances is for local folders")
        return run_large("evaluate", arguments, scale, predictions=only_one(arguments.predictions))
    if arguments.instances and (arguments.csv or arguments.train_ids):
        raise ConfigError("--csv and --train-ids belong to label maps, not to --instances")
    result = call("evaluate", arguments)
    print(tables.scores_text(result.scores, arguments.per_image, result.left_out))
    files = arguments.json, arguments.markdown, arguments.csv
    tables.write_score_files(result.scores, *files, images=arguments.per_image, left_out=result.left_out)
    return 0


def _report(arguments: Arguments) -> None:
    result = call("report", arguments, on_scores=lambda scores: print(tables.scores_text(scores)))
    if result.left_out:
        print(f"left out: {len(result.left_out)} ({tables.first_of(result.left_out)})")
    print(f"report: {result.page}")


def _inspect(arguments: Arguments) -> int:
    with contextlib.redirect_stdout(sys.stderr):  # log messages are not part of the result
        found = call("inspect", arguments, size=tuple(arguments.size))
    print(json.dumps(found, indent=1) if arguments.json else printable(inspect_text(found), keep="\n"))
    return 0 if found.get("checkpoint", {}).get("fits", True) else EXIT_FOUND


def _labels(arguments: Arguments) -> int:
    found = call("describe_labels", arguments)
    print(json.dumps(found, indent=1) if arguments.json else "\n\n".join(label_text(each) for each in found))
    return EXIT_FOUND if any(each.get("unknown") for each in found) else 0


def _export(arguments: Arguments) -> None:
    result = call("export", arguments)
    if result.left_out:
        print(f"the file does one pass at the size that images have; val also uses {', '.join(result.left_out)}")
    print(f"{result.checkpoint}: {result.report}")
    print(f"written: {result.path}; input images: {result.input}, RGB from 0 to 255; output {result.output}")
    for shape, difference, same in result.comparisons:
        print(f"compared with PyTorch, {list(shape)}: largest difference {difference:.2g}, {100 * same:.3f} % the same")
    if result.quantized is not None:
        print(quantized_text(result.quantized))


def _serve(arguments: Arguments) -> None:
    call("serve", arguments)


def _convert(arguments: Arguments) -> None:
    result = call("convert", arguments)
    config = result.config
    print(f"{arguments.source}: layout {result.layout}, config {config.name}: {result.report}")
    print(f"heads: {config.model.activation}; normalization: {config.normalization.model_dump(mode='json')}")
    print(f"written: {result.path}")


def _check(arguments: Arguments) -> int:
    result = call("check", arguments)
    for report in result.splits:
        print(f"{check_text(report)}\n")
    for text in result.warnings:
        print(f"warning: {text}")
    print(f"{result.name}: {len(result.errors)} errors, {result.warning_count} warnings")
    if arguments.json:
        write_json(arguments.json, result.as_dict())
    return EXIT_FOUND if result.errors else 0


def _cache(arguments: Arguments) -> None:
    result = call("fill_cache", arguments)
    for error in result.left_out:
        print(f"left out: {error}")
    limit, count = result.limit_bytes / 1e9, result.samples - len(result.left_out)
    print(f"{result.folder}: {result.used_bytes / 1e9:.2f} GB of at most {limit:g}")
    print(f"{count} of {result.samples} samples read; train with data.cache_gb={limit:g}")


def _benchmark(arguments: Arguments) -> None:
    found = call("benchmark", arguments)
    print(benchmark_text(found))
    if arguments.json:
        write_json(arguments.json, found)


def _completion(arguments: Arguments) -> None:
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab; pip install 'openseg[completion]'") from None
    parser = make_parser()
    parser.prog = "openseg"
    print(shtab.complete(parser, arguments.shell))


def _config(arguments: Arguments) -> None:
    import yaml

    from openseg.config import load_config
    from openseg.config.keys import keys_table

    if arguments.keys:
        print(keys_table())
    elif not arguments.config:
        raise ConfigError("pass --config or --keys")
    else:
        config = load_config(arguments.config, arguments.overrides)
        print(yaml.safe_dump(config.dump(), sort_keys=False), end="")


_CONFIG = option("--config YAML", "config file (YAML)")
_OVERRIDES = option("overrides", "config values to override, as key.sub=value", nargs="*", metavar="key.sub=value")
_AUTO = flag("--auto-resume", "resume if possible", dest="resume", action="store_const", const="may", default="never")
_KEYS = flag("--keys", "print a table of all keys with values, defaults and descriptions")
_SHOW_JSON = flag("--json", "print the result as JSON")
_JSON, _MARKDOWN, _CSV = (
    option(f"--{kind} FILE", f"also write {what} to this file", type=result_file(suffix))
    for kind, suffix, what in (
        ("json", ".json", "everything"),
        ("markdown", ".md", "the tables"),
        ("csv", ".csv", "the confusion matrices"),
    )
)
_PER_IMAGE = flag("--per-image", "also report boundary F-scores averaged over images")
_SCORES = _PER_IMAGE, _JSON, _MARKDOWN, _CSV
_FILES = option(
    "files", "score files of evaluate --shard, or summaries of predict and refine", nargs="+", metavar="JSON"
)
_SHELL = option("shell", "shell to complete for", choices=("bash", "zsh", "tcsh"))
_COMMANDS = (
    Command("train", _train, "Train a network; no checkpoint is overwritten.", "train", "resume change", (_AUTO,)),
    Command("resume", _resume, "Resume an interrupted training exactly.", "train", "resume weights partial"),
    Command("val", _val, "Predict and score the validation split.", "validate"),
    Command("verify", _verify, "Measure what bf16 changes, for test.precision=auto.", "verify"),
    Command("test", _test, "Predict a split, in the format of its test server.", "test"),
    Command("predict", _predict, "Predict an image, a folder of images, or a video.", "predict", "", SCALE),
    Command("offsets", _offsets, "Predict SegFix offsets of a split or a folder.", "predict_offsets"),
    Command("segfix", None, "Refine labels or masks with SegFix, or tune it.", commands=SEGFIX),
    Command("segfix-targets", show_targets, "Generate SegFix ground truth.", "make_segfix_targets", "data_root"),
    Command("evaluate", _evaluate, _EVALUATE, "evaluate", more=(*_SCORES, *RECORDS, *SCALE)),
    Command("merge", merge, "Add up the files of shards, and prove that none is missing.", more=(_FILES, *_SCORES)),
    Command("report", _report, "Write an HTML report: scores, charts, all images.", "report"),
    Command("inspect", _inspect, "Show parameters, FLOPs; describe a checkpoint.", "inspect", more=(_SHOW_JSON,)),
    Command("labels", _labels, "Describe label files: IDs, names, shares.", "describe_labels", "", (_SHOW_JSON,)),
    Command("export", _export, "Export a network as ONNX or torch.export.", "export"),
    Command("serve", _serve, "Answer images with labels over HTTP; shows a page to drop them on.", "serve"),
    Command("convert", _convert, "Convert a checkpoint to openseg's layout.", "convert"),
    Command("check", _check, "Check a dataset; exit code 1 if there are errors.", "check", more=(_JSON,)),
    Command("cache", _cache, "Fill the disk cache with decoded samples.", "fill_cache"),
    Command("benchmark", _benchmark, "Measure the speed of training and prediction.", "benchmark", more=(_JSON,)),
    Command("completion", _completion, "Print a shell completion script.", more=(_SHELL,)),
    Command("config", _config, "Print the resolved config, or a table of all keys.", more=(_CONFIG, _OVERRIDES, _KEYS)),
)


def make_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """Return the parser of all commands, with options only for the ``wanted`` one if given."""
    prog = "openseg" if Path(sys.argv[0]).name == "openseg" else "main.py"  # as installed
    description = _DESCRIPTION if prog == "main.py" else _DESCRIPTION.replace("python main.py", "openseg")
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=HelpFormatter)
    add_options(parser, [DEBUG])
    parser.add_argument("--version", action="version", version=version_text(), help="print the version")
    add_commands(parser, _COMMANDS, wanted)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; return the exit code."""
    argv = [*(sys.argv[1:] if argv is None else argv)]
    if argv[:2] == ["evaluate", "merge"]:
        argv = argv[1:]
    parser = make_parser(next((part for part in argv if not part.startswith("-")), "none"))
    # Overrides may be mixed with options, which argparse alone does not support for a list of positionals.
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(part.startswith("-") or "=" not in part for part in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return run_command(lambda: arguments.run(arguments), arguments.debug)
