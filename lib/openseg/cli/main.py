"""``main.py``: one command for each thing to do with networks, data and labels; see its --help."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from openseg.cli.benchmark import add_benchmark, benchmark
from openseg.cli.common import HelpFormatter, add_config, add_debug, add_device, config_of, run_command
from openseg.cli.data import add_cache, add_check, cache, check
from openseg.cli.evaluate import add_evaluate, evaluate
from openseg.cli.export import add_export, export
from openseg.cli.inspect import add_inspect, add_labels, inspect, labels
from openseg.cli.predict import add_offsets, add_predict, add_test, add_val, offsets, predict, test, val
from openseg.cli.report import add_report, report
from openseg.errors import ConfigError, OpensegError
from openseg.tools.prepare.targets import add_targets_options, make_targets_of

__all__ = ["main"]

_DESCRIPTION = """Train, evaluate and refine semantic segmentation.

  python main.py check    --config configs/camvid/hrnet18_ocr.yaml
  python main.py train    --config configs/camvid/hrnet18_ocr.yaml
  python main.py val      --config configs/camvid/hrnet18_ocr.yaml
  python main.py predict  my_images --config configs/camvid/hrnet18_ocr.yaml
  python main.py offsets  --config configs/camvid/segfix_hrnet_small.yaml --split val
  python main.py report   data/seg_result/camvid/hrnet_w18_ocr_1_val --dataset camvid
  python main.py evaluate --dataset camvid --pred predictions --gt data/camvid/val/label

Labels are refined by segfix.py, see python segfix.py --help. Exit codes: 0 done, 1 something was
left out (predict, offsets) or found wrong (check, inspect, labels), 2 a problem that the message names, 130
interrupted.
"""

Command = Callable[[argparse.Namespace], "int | None"]


def _config(arguments: argparse.Namespace) -> None:
    import yaml

    if arguments.keys:
        from openseg.cli.keys import keys_table

        print(keys_table())
        return
    if not arguments.config:
        raise ConfigError("name a config by --config, or ask for all keys by --keys")
    print(yaml.safe_dump(config_of(arguments).dump(), sort_keys=False), end="")


def _train(arguments: argparse.Namespace) -> None:
    from openseg.distributed import be_deterministic, pick_device, process_group
    from openseg.training.trainer import Start, train

    config = config_of(arguments)
    run_dir = Path(arguments.runs) / config.dataset_info.name / config.name
    start = Start("must", change=arguments.command == "resume" and arguments.change)
    if arguments.command == "train":
        weights = Path(arguments.weights) if arguments.weights else None
        start = Start("may" if arguments.auto_resume else "never", weights, arguments.partial)
    if arguments.deterministic:
        be_deterministic()
    device = pick_device(arguments.device)
    with process_group(device) as group:
        if not group.first:
            logging.getLogger("openseg").setLevel(logging.WARNING)
        try:
            train(config, device, Path(arguments.checkpoints), run_dir, start, group)
        except OpensegError as error:
            if group.world > 1:
                error.args = (f"process {group.rank} of {group.world}: {error}",)
            raise


def _convert(arguments: argparse.Namespace) -> None:
    from openseg.cli.convert import convert

    convert(arguments.source, arguments.target, arguments.config, arguments.overrides)


def _completion(arguments: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError:
        raise ConfigError("completion needs shtab; pip install 'openseg[completion]'") from None
    parser = _parser()
    parser.prog = "openseg"
    print(shtab.complete(parser, arguments.shell))


def _parser() -> argparse.ArgumentParser:
    prog = "openseg" if Path(sys.argv[0]).name == "openseg" else "main.py"  # as installed
    description = _DESCRIPTION if prog == "main.py" else _DESCRIPTION.replace("python main.py", "openseg")
    parser = argparse.ArgumentParser(prog=prog, description=description, formatter_class=HelpFormatter)
    add_debug(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=HelpFormatter, allow_abbrev=False)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        sub.set_defaults(run=run)
        return sub

    for name, text in (
        ("train", "Train a config; refuses to overwrite a checkpoint that already exists."),
        ("resume", "Continue an interrupted training exactly where it stopped."),
    ):
        sub = add(name, _train, text)
        add_config(sub)
        sub.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
        sub.add_argument("--runs", default="runs", metavar="DIR", help="root of TensorBoard events and metrics")
        if name == "train":
            sub.add_argument("--weights", metavar="PTH", help="start from these weights of the whole network")
            sub.add_argument("--partial", action="store_true", help="take of --weights what fits this network")
            sub.add_argument(
                "--auto-resume", action="store_true", help="continue this training if it was begun already"
            )
        else:
            sub.add_argument(
                "--change", action="store_true", help="take settings that change what is learned, such as train.lr"
            )
        sub.add_argument(
            "--deterministic", action="store_true", help="the same numbers again on the same GPUs; slower there"
        )
        add_device(sub)

    add_val(add("val", val, "Predict the validation split, write labels and scores; goes on where it stopped."))
    add_test(add("test", test, "Predict a split and write labels for its test server; goes on where it stopped."))
    add_predict(add("predict", predict, "Predict an image, a folder of images or a video: ids, colors, overlay."))
    add_offsets(add("offsets", offsets, "Predict SegFix offsets of the images of a split or a folder."))
    sub = add("segfix-targets", make_targets_of, "Make SegFix ground truth from label or instance maps.")
    add_targets_options(sub)
    sub.add_argument("--instances", action="store_true", help="from instance maps, every object being a region")
    add_evaluate(
        add("evaluate", evaluate, "Score labels of any model: mIoU, accuracies, boundary F and IoU; instances: AP.")
    )
    add_report(
        add("report", report, "Write a page to look at labels with: scores, charts, every image, before and after.")
    )
    add_inspect(add("inspect", inspect, "Say what a network costs and what a checkpoint holds, and whether they fit."))
    add_labels(add("labels", labels, "Say what label files hold: values, names, shares, colors."))
    add_export(add("export", export, "Write a network for other programs: ONNX or torch.export."))
    sub = add("convert", _convert, "Write a checkpoint of any known layout in ours, and say what it holds.")
    sub.add_argument("source", metavar="IN", help="a checkpoint of the whole network")
    sub.add_argument("target", metavar="OUT", help=".pth or .safetensors")
    sub.add_argument("--config", metavar="YAML", help="its config (default: the one of configs/ that it fits)")
    sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")
    add_check(
        add("check", check, "Read a whole dataset and report what is wrong with it; exit code 1 if something is.")
    )
    add_cache(add("cache", cache, "Decode the training and validation samples of a config into its cache."))
    sub = add("benchmark", benchmark, "Say where the time of training and prediction goes.")
    add_config(sub)
    add_benchmark(sub)
    add_device(sub)
    sub = add("completion", _completion, "Print what makes a shell complete this command's options.")
    sub.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    sub = add("config", _config, "Print the resolved config, or with --keys what a config may say.")
    sub.add_argument("--config", metavar="YAML", help="the config, see configs/")
    sub.add_argument("--keys", action="store_true", help="a table of every key, its values, default and meaning")
    sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run; returns the exit code."""
    parser = _parser()
    # Overrides may stand among the options, which argparse alone cannot do for a list of positionals.
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(part.startswith("-") or "=" not in part for part in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return run_command(lambda: arguments.run(arguments), arguments.debug)
