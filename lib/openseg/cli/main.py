"""``main.py`` and ``openseg``: options of every command, mapped onto the keyword function of the same name."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from openseg.cli.common import (
    EXIT_FOUND,
    HelpFormatter,
    add_config,
    add_debug,
    add_device,
    add_json,
    add_metrics,
    add_workers,
    call,
    run_command,
    shown_errors,
)
from openseg.cli.prepare import add_targets, show_targets
from openseg.cli.segfix import add_segfix
from openseg.errors import ConfigError, DataError
from openseg.io.files import write_json
from openseg.tools.report import tables
from openseg.tools.report.text import benchmark_text, check_text, inspect_text, label_text

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

Exit codes: 0 done, 1 something was left out (predict, offsets, segfix) or found wrong (check, inspect, labels),
2 a problem that the message names, 130 interrupted.
"""
_ARRAYS = ("logits", "probabilities")
Parser = argparse.ArgumentParser
Arguments = argparse.Namespace


def _train(arguments: Arguments) -> None:
    call("train", arguments)


def _val(arguments: Arguments) -> None:
    result = call("validate", arguments)
    if result.scores is not None:
        print(tables.scores_text({Path(result.files["json"]).parent.name: result.scores}))
        if result.report is not None:
            print(f"report: {result.report}")
        print(f"labels: {result.labels}\nscores: {result.files['json']}, scores.md and confusion.csv beside it")


def _test(arguments: Arguments) -> None:
    print(f"labels: {call('test', arguments).labels}")


def _predict(arguments: Arguments) -> int:
    more = [each for each in arguments.overrides if "=" not in each]
    if more:
        raise DataError(f"{more[0]}: predict takes one INPUT; put several images into a folder")
    result = call("predict", arguments)
    print(f"{', '.join(result.kinds)}: {result.folder}")
    return shown_errors(result.left_out)


def _offsets(arguments: Arguments) -> int:
    result = call("predict_offsets", arguments)
    print(f"offsets: {result.folder}")
    return shown_errors(result.left_out)


def _evaluate(arguments: Arguments) -> None:
    if arguments.instances and (arguments.csv or arguments.train_ids):
        raise ConfigError("--csv and --train-ids belong to label maps, not to --instances")
    result = call("evaluate", arguments)
    print(tables.scores_text(result.scores, arguments.per_image, result.left_out))
    files = arguments.json, arguments.markdown, arguments.csv
    tables.write_score_files(result.scores, *files, images=arguments.per_image, left_out=result.left_out)


def _report(arguments: Arguments) -> None:
    result = call("report", arguments, on_scores=lambda scores: print(tables.scores_text(scores)))
    if result.left_out:
        print(f"left out: {len(result.left_out)} ({tables.first_of(result.left_out)})")
    print(f"report: {result.page}")


def _inspect(arguments: Arguments) -> int:
    with contextlib.redirect_stdout(sys.stderr):  # what is said on the way is no part of the result
        found = call("inspect", arguments, size=tuple(arguments.size))
    print(json.dumps(found, indent=1) if arguments.json else inspect_text(found))
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
    text = "input images: float32[batch, 3, height, width], RGB from 0 to 255"
    print(f"written: {result.path}; {text}; output {result.output}")
    for shape, difference, same in result.comparisons:
        print(f"compared with PyTorch, {list(shape)}: largest difference {difference:.2g}, {100 * same:.3f} % the same")


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
        raise ConfigError("name a config by --config, or ask for all keys by --keys")
    else:
        config = load_config(arguments.config, arguments.overrides)
        print(yaml.safe_dump(config.dump(), sort_keys=False), end="")


def make_parser() -> Parser:
    """The parser of all commands."""
    prog = "openseg" if Path(sys.argv[0]).name == "openseg" else "main.py"  # as installed
    description = _DESCRIPTION if prog == "main.py" else _DESCRIPTION.replace("python main.py", "openseg")
    parser = Parser(prog=prog, description=description, formatter_class=HelpFormatter)
    add_debug(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(
        name: str, run: Callable[[Arguments], int | None] | None, text: str, *options: Callable[[Parser], Any]
    ) -> None:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=HelpFormatter, allow_abbrev=False)
        text = "show the traceback of an error"
        sub.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=text)
        if run is not None:
            sub.set_defaults(run=run)
        for option in options:
            option(sub)

    text = "Train a config; refuses to overwrite a checkpoint that already exists."
    add("train", _train, text, _add_training, _add_new_training)
    add("resume", _train, "Continue an interrupted training exactly where it stopped.", _add_training, _add_resume)
    add("val", _val, "Predict the validation split, write labels and scores; resumes where it stopped.", _add_val)
    add("test", _test, "Predict a split and write labels for its test server; resumes where it stopped.", _add_test)
    add("predict", _predict, "Predict an image, a folder of images or a video: IDs, colors, overlay.", _add_predict)
    add("offsets", _offsets, "Predict SegFix offsets of the images of a split or a folder.", _add_offsets)
    text = "Refine labels or masks with SegFix offsets, or tune how."
    add("segfix", None, text, lambda sub: add_segfix(sub, f"{prog} segfix"))
    add("segfix-targets", show_targets, "Make SegFix ground truth from label or instance maps.", add_targets, _add_maps)
    text = "Score labels of any model: mIoU, accuracies, boundary F and IoU; instances: AP."
    add("evaluate", _evaluate, text, _add_evaluate, add_metrics, add_workers)
    text = "Write an HTML report about labels: scores, charts, every image, before and after."
    add("report", _report, text, _add_report, add_workers)
    add(
        "inspect", _inspect, "Say what a network costs and what a checkpoint holds, and whether they fit.", _add_inspect
    )
    add("labels", _labels, "Say what label files hold: values, names, shares, colors.", _add_labels)
    add("export", _export, "Write a network for other programs: ONNX or torch.export.", _add_export)
    add("convert", _convert, "Write a checkpoint of any known layout in ours, and say what it holds.", _add_convert)
    text = "Read a whole dataset and report what is wrong with it; exit code 1 if something is."
    add("check", _check, text, _add_check, add_workers)
    text = "Decode the training and validation samples of a config into its cache."
    add("cache", _cache, text, add_config, _add_cache, add_workers)
    text = "Say where the time of training and prediction goes."
    add("benchmark", _benchmark, text, add_config, _add_benchmark, add_device)
    add("completion", _completion, "Print what makes a shell complete this command's options.", _add_shell)
    add("config", _config, "Print the resolved config, or with --keys what a config may say.", _add_keys)
    return parser


def _add_training(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
    parser.add_argument("--runs", default="runs", metavar="DIR", help="root of TensorBoard events and metrics")
    text = "the same numbers again on the same GPUs; slower there"
    parser.add_argument("--deterministic", action="store_true", help=text)
    add_device(parser)


def _add_new_training(parser: Parser) -> None:
    parser.add_argument("--weights", metavar="PTH", help="start from these weights of the whole network")
    parser.add_argument("--partial", action="store_true", help="take of --weights what fits this network")
    text = "continue this training if it was begun already"
    parser.add_argument("--auto-resume", dest="resume", action="store_const", const="may", default="never", help=text)


def _add_resume(parser: Parser) -> None:
    text = "take settings that change what is learned, such as train.lr"
    parser.add_argument("--change", action="store_true", help=text)
    parser.set_defaults(resume="must")


def _add_network(parser: Parser) -> None:
    add_config(parser)
    parser.add_argument("--checkpoint", metavar="PTH", help="default: <name>_latest.pth below --checkpoints")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")


def _add_prediction(parser: Parser, out: str, kinds: tuple[str, ...] = (), default: tuple[str, ...] = ()) -> None:
    _add_network(parser)
    parser.add_argument("--out", metavar="DIR", help=f"default: {out}")
    parser.add_argument("--overwrite", action="store_true", help="overwrite existing results")
    add_device(parser)
    if kinds:
        text = "single or multi-scale (default: ss)"
        parser.add_argument("--mode", choices=("ss", "ms"), default="ss", help=text)
        text = f"beside label/: {', '.join(kinds)}, or none (default: {','.join(default)})"
        known = kinds
        parser.add_argument("--also", default=default, type=lambda t: _kinds(t, known), metavar="KIND,KIND", help=text)


def _kinds(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(part for part in text.split(",") if part not in ("", "none")))
    if not set(kinds) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is not none or some of {', '.join(known)}, parted by commas")
    return kinds


def _add_val(parser: Parser) -> None:
    out = "<data root>/seg_result/<dataset>/<name>_val, or _val_ms"
    _add_prediction(parser, out, ("vis", "report", *_ARRAYS), ("vis", "report"))


def _add_test(parser: Parser) -> None:
    out = "<data root>/seg_result/<dataset>/<name>_<split>_<mode>"
    _add_prediction(parser, out, ("vis", *_ARRAYS), ("vis",))
    parser.add_argument("--split", default="test", help="default: test")


def _add_predict(parser: Parser) -> None:
    parser.add_argument("images", metavar="INPUT", help="an image, a folder of images, or a video")
    kinds = ("vis", "overlay", *_ARRAYS)
    _add_prediction(parser, "predictions/<name>/<name of the input>", kinds, ("vis", "overlay"))


def _add_offsets(parser: Parser) -> None:
    out = "offset_pred/<split>/semantic/<dataset>/offset_<backbone>, or offset_pred/images/<folder>"
    _add_prediction(parser, out)
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--images", metavar="DIR", help="a folder of images instead of a split")
    text = "png: ours; mat: the original's with int8; mat-int32: exactly the original's (default: png)"
    parser.add_argument("--format", choices=("png", "mat", "mat-int32"), default="png", help=text)


def _add_maps(parser: Parser) -> None:
    parser.add_argument("--instances", action="store_true", help="from instance maps, every object being a region")


def _add_evaluate(parser: Parser) -> None:
    text = "whose IDs the files hold: a name, or a YAML file of your own"
    parser.add_argument("--dataset", required=True, help=text)
    text = "one or more folders to compare"
    parser.add_argument("--pred", dest="predictions", required=True, nargs="+", metavar="DIR", help=text)
    text = "folder of true labels, such as gtFine/val (default: the dataset's, of --split)"
    parser.add_argument("--gt", dest="ground_truth", metavar="DIR", help=text)
    parser.add_argument("--split", default="val", help="without --gt (default: val)")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="without --gt (default: data)")
    text = "--pred holds instance masks: <name>_pred.txt lists; AP instead of IoU"
    parser.add_argument("--instances", action="store_true", help=text)
    parser.add_argument("--train-ids", action="store_true", help="--pred holds train IDs 0, 1, 2, ...")
    text = "score what can be scored, and say what is left out"
    parser.add_argument("--allow-missing", action="store_true", help=text)
    text = "of the boundary F-score, in pixels (default: 1,3,5,9,12); none: no boundary scores, faster"
    parser.add_argument("--distances", type=_distances, default=(1, 3, 5, 9, 12), metavar="N,N", help=text)
    parser.add_argument("--per-image", action="store_true", help="also boundary F-scores averaged over images")
    add_json(parser)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the tables here")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the confusion matrices here")


def _distances(text: str) -> tuple[int, ...]:
    if text == "none":
        return ()
    parts = text.split(",")
    if not all(part.isdigit() and 0 < int(part) <= 100 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pixels such as 1,3,5, or none")
    return tuple(sorted({int(part) for part in parts}))


def _add_report(parser: Parser) -> None:
    text = "labels, what val or predict wrote, or the folder of a training below runs/"
    parser.add_argument("folder", metavar="DIR", help=text)
    parser.add_argument("--compare", metavar="DIR", help="other labels of the same images, such as refined ones")
    text = "of the two (default: before and after, or folders)"
    parser.add_argument("--names", nargs="+", metavar="NAME", help=text)
    parser.add_argument("--dataset", help="whose IDs the labels hold: a name, or a YAML file of your own")
    text = "true labels (default: the dataset's, of --split)"
    parser.add_argument("--gt", dest="ground_truth", metavar="DIR", help=text)
    text = "there is no ground truth: show the labels, and what differs"
    parser.add_argument("--no-gt", dest="no_ground_truth", action="store_true", help=text)
    parser.add_argument("--images", metavar="DIR", help="default: the dataset's, of --split, if they exist")
    parser.add_argument("--split", help="default: val, or of a training its own")
    parser.add_argument("--data-root", metavar="DIR", help="default: data, or of a training its own")
    parser.add_argument("--train-ids", action="store_true", help="the labels hold train IDs 0, 1, 2, ...")
    parser.add_argument("--allow-missing", action="store_true", help="report what can be, and say what is left out")
    text = "images that are shown; scores are of all (default: 500)"
    parser.add_argument("--limit", type=int, default=500, metavar="N", help=text)
    parser.add_argument("--out", metavar="DIR", help="default: report inside DIR, or beside a folder of labels")
    add_metrics(parser)
    parser.set_defaults(metrics=None)


def _add_inspect(parser: Parser) -> None:
    add_config(parser, required=False, text="the config (default: the one that --checkpoint is of)")
    parser.add_argument("--checkpoint", metavar="PTH", help="also say what this file holds, and whether it fits")
    text = "of an image (default: 512 1024)"
    parser.add_argument("--size", nargs=2, type=int, default=(512, 1024), metavar=("H", "W"), help=text)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _add_labels(parser: Parser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="label maps")
    text = "whose IDs they hold, for names: a name, or a YAML file of your own"
    parser.add_argument("--dataset", help=text)
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _add_export(parser: Parser) -> None:
    parser.add_argument("out", metavar="OUT", help=".onnx, or .pt2 of torch.export")
    _add_network(parser)
    text = "logits [B,K,H,W] or labels uint8[B,H,W] of a semantic network, offsets uint8[B,H,W] of SegFix "
    text += "(default: logits, offsets)"
    parser.add_argument("--output", choices=("logits", "labels", "offsets"), help=text)


def _add_convert(parser: Parser) -> None:
    parser.add_argument("source", metavar="IN", help="a checkpoint of the whole network")
    parser.add_argument("target", metavar="OUT", help=".pth or .safetensors")
    add_config(parser, required=False, text="its config (default: the one of configs/ that it fits)")


def _add_check(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", metavar="YAML", help="a config: its training and validation samples")
    what.add_argument("--dataset", metavar="NAME", help="a built-in dataset, or the YAML file of your own")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")
    parser.add_argument("--data-root", default="data", metavar="DIR", help="with --dataset (default: data)")
    text = "default: those of the config, or train val"
    parser.add_argument("--split", dest="splits", nargs="+", metavar="SPLIT", help=text)
    add_json(parser, "write everything here as well")


def _add_cache(parser: Parser) -> None:
    parser.add_argument("--cache-gb", type=float, metavar="GB", help="at most so much (default: data.cache_gb)")


def _add_benchmark(parser: Parser) -> None:
    parser.add_argument("--iterations", type=int, default=10, metavar="N", help="updates to measure (default: 10)")
    parser.add_argument("--warm-up", type=int, default=3, metavar="N", help="updates before (default: 3)")
    parser.add_argument("--random-data", action="store_true", help="random images and labels in place of the dataset")
    add_json(parser, "also write the figures here")


def _add_shell(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "tcsh"))


def _add_keys(parser: Parser) -> None:
    add_config(parser, required=False)
    parser.add_argument("--keys", action="store_true", help="a table of every key, its values, default and meaning")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    parser = make_parser()
    # Overrides may stand among the options, which argparse alone cannot do for a list of positionals.
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(part.startswith("-") or "=" not in part for part in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return run_command(lambda: arguments.run(arguments), arguments.debug)
