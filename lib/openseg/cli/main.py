"""``main.py``: train, resume, val, test, offsets, evaluate, convert, check, cache, config."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from openseg.cli.common import (
    HelpFormatter,
    add_debug,
    add_device,
    add_experiment,
    experiment_of,
    pick_device,
    run_command,
)
from openseg.cli.data import add_cache, add_check, cache, check

__all__ = ["main"]

_DESCRIPTION = """Train, evaluate and sharpen semantic segmentation.

  python main.py check    --config configs/camvid/hrnet18_ocr.yaml
  python main.py train    --config configs/camvid/hrnet18_ocr.yaml
  python main.py val      --config configs/camvid/hrnet18_ocr.yaml
  python main.py offsets  --config configs/camvid/segfix_hrnet18.yaml --split val
  python main.py evaluate --dataset camvid --pred predictions --gt data/camvid/val/label

Labels are sharpened by segfix.py, see python segfix.py --help. Exit codes: 0 done, 1 check found errors,
2 a problem that the message names, 130 interrupted.
"""

Command = Callable[[argparse.Namespace], "int | None"]


def _config(arguments: argparse.Namespace) -> None:
    import yaml

    print(yaml.safe_dump(experiment_of(arguments).dump(), sort_keys=False), end="")


def _train(arguments: argparse.Namespace) -> None:
    from openseg.engine.train import train

    experiment = experiment_of(arguments)
    run_dir = Path(arguments.runs) / experiment.catalog.name / experiment.name
    resume = arguments.command == "resume"
    weights = None if resume or arguments.weights is None else Path(arguments.weights)
    partial = not resume and arguments.partial
    train(experiment, pick_device(arguments.device), Path(arguments.checkpoints), run_dir, resume, weights, partial)


def _val(arguments: argparse.Namespace) -> None:
    from openseg.data.folder import list_split
    from openseg.engine.evaluate import evaluate_semantic
    from openseg.report.tables import write_scores

    experiment, model, device, _ = _load(arguments, "semantic", "offsets")
    pairs = list_split(experiment, experiment.data.val_split)
    out_dir = _out_dir(arguments, experiment, "val" if arguments.mode == "ss" else "val_ms")
    scores = evaluate_semantic(model, experiment, pairs, device, out_dir, (1, 3, 5), arguments.mode)
    write_scores(out_dir / "scores.json", {experiment.name: scores})
    print(f"labels: {out_dir / 'label'}\nscores: {out_dir / 'scores.json'}")


def _test(arguments: argparse.Namespace) -> None:
    from openseg.data.folder import list_images, split_paths
    from openseg.engine.evaluate import predict_images

    experiment, model, device, _ = _load(arguments, "semantic", "offsets")
    images = list_images(split_paths(experiment.catalog, experiment.data_dir, arguments.split))
    out_dir = _out_dir(arguments, experiment, f"{arguments.split}_{arguments.mode}")
    predict_images(model, experiment, images, device, out_dir, arguments.mode)
    print(f"labels: {out_dir / 'label'}")


def _offsets(arguments: argparse.Namespace) -> None:
    from openseg.data.folder import list_images, split_paths
    from openseg.engine.evaluate import predict_offsets
    from openseg.files import file_hash

    experiment, model, device, path = _load(arguments, "segfix", "val")
    folder = arguments.images or split_paths(experiment.catalog, experiment.data_dir, arguments.split)
    images = list_images(folder)
    default = f"offset_pred/{arguments.split}/semantic/{experiment.catalog.name}/offset_{experiment.model.backbone}"
    out_dir = Path(arguments.out or default)
    made_by = {"checkpoint": file_hash(path)}
    predict_offsets(model, experiment, images, device, out_dir, f".{arguments.format}", made_by)
    print(f"offsets: {out_dir}")


def _evaluate(arguments: argparse.Namespace) -> None:
    from openseg.catalog import get_catalog
    from openseg.data.folder import list_truths, require_partners, split_paths
    from openseg.engine.scoring import score_files
    from openseg.files import LABEL_SUFFIXES, index_files, list_files
    from openseg.report.tables import write_scores

    if arguments.gt:
        truths = index_files(list_files(arguments.gt, LABEL_SUFFIXES))
    else:
        catalog = get_catalog(arguments.dataset)
        data_dir = Path(arguments.data_root) / catalog.folder
        truths = list_truths(split_paths(catalog, data_dir, arguments.split))
    results = {}
    for folder in arguments.pred:
        predictions = index_files(list_files(folder, LABEL_SUFFIXES))
        require_partners(truths, predictions, "prediction", Path(folder))
        files = [(predictions[key], truth) for key, truth in truths.items()]
        results[folder] = score_files(files, arguments.dataset, arguments.distances)
    write_scores(Path(arguments.json) if arguments.json else None, results)


def _convert(arguments: argparse.Namespace) -> None:
    from openseg.cli.convert import convert

    convert(arguments.source, arguments.target, arguments.config, arguments.overrides)


def _load(arguments: argparse.Namespace, task: str, other: str) -> tuple:
    """Experiment, network in eval mode, its device, and the checkpoint's path; ``other`` is the command of other tasks.

    Raises:
        ConfigError: the experiment is of another task.
    """
    import torch

    from openseg.engine.checkpoints import find_checkpoint
    from openseg.errors import ConfigError
    from openseg.models.inference import prepare_for_inference
    from openseg.models.weights import load_model

    experiment = experiment_of(arguments)
    if experiment.task != task:
        raise ConfigError(f"{experiment.name} is an experiment of task {experiment.task}; use the command '{other}'")
    root = Path(arguments.checkpoints)
    path = Path(arguments.checkpoint) if arguments.checkpoint else find_checkpoint(experiment, root)
    device = pick_device(arguments.device)
    model, report = load_model(experiment, path)
    print(f"{path}: {report}")
    dtype = torch.bfloat16 if experiment.test.precision == "bf16" else torch.float32
    return experiment, prepare_for_inference(model, dtype).to(device), device, path


def _out_dir(arguments: argparse.Namespace, experiment: object, what: str) -> Path:
    default = experiment.data.root / "seg_result" / experiment.catalog.name / f"{experiment.name}_{what}"
    return Path(arguments.out or default)


def _distances(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.isdigit() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of pixels such as 1,3,5")
    return tuple(int(part) for part in parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="main.py", description=_DESCRIPTION, formatter_class=HelpFormatter)
    add_debug(parser)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def add(name: str, run: Command, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text, formatter_class=HelpFormatter, allow_abbrev=False)
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error"
        )
        sub.set_defaults(run=run)
        return sub

    def add_network(sub: argparse.ArgumentParser, out: str) -> None:
        add_experiment(sub)
        sub.add_argument("--checkpoint", metavar="PTH", help="default: <name>_latest.pth below --checkpoints")
        sub.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
        sub.add_argument("--out", metavar="DIR", help=f"default: {out}")
        add_device(sub)

    for name, text in (
        ("train", "Train an experiment; refuses to overwrite a checkpoint that is there already."),
        ("resume", "Continue an interrupted training exactly where it stopped."),
    ):
        sub = add(name, _train, text)
        add_experiment(sub)
        sub.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
        sub.add_argument("--runs", default="runs", metavar="DIR", help="root of the TensorBoard events")
        if name == "train":
            sub.add_argument("--weights", metavar="PTH", help="start from these weights of the whole network")
            sub.add_argument("--partial", action="store_true", help="take of --weights what fits this network")
        add_device(sub)

    def add_mode(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--mode", choices=("ss", "ms"), default="ss", help="single or multi-scale (default: ss)")

    sub = add("val", _val, "Predict the validation split, write labels and print scores.")
    add_network(sub, "<data root>/seg_result/<dataset>/<name>_val, or _val_ms")
    add_mode(sub)
    sub = add("test", _test, "Predict a split without truth and write labels for its test server.")
    add_network(sub, "<data root>/seg_result/<dataset>/<name>_<split>_<mode>")
    add_mode(sub)
    sub.add_argument("--split", default="test", help="default: test")
    sub = add("offsets", _offsets, "Predict SegFix offsets of the images of a split or a folder.")
    add_network(sub, "offset_pred/<split>/semantic/<dataset>/offset_<backbone>")
    sub.add_argument("--split", default="val", help="default: val")
    sub.add_argument("--images", metavar="DIR", help="a folder of images instead of a split")
    sub.add_argument("--format", choices=("png", "mat"), default="png", help="png: ours; mat: the original's")
    sub = add("evaluate", _evaluate, "Score label PNGs of any model against the truth: mIoU, accuracy, boundary F.")
    sub.add_argument("--dataset", required=True, help="whose ids the files hold: a name, or a YAML file of your own")
    sub.add_argument("--pred", required=True, nargs="+", metavar="DIR", help="one or more folders to compare")
    sub.add_argument("--gt", metavar="DIR", help="folder of true labels (default: the data set's, of --split)")
    sub.add_argument("--split", default="val", help="without --gt (default: val)")
    sub.add_argument("--data-root", default="data", metavar="DIR", help="without --gt (default: data)")
    sub.add_argument(
        "--distances",
        type=_distances,
        default=(1, 3, 5),
        metavar="N,N",
        help="of the boundary F-score, in pixels (default: 1,3,5)",
    )
    sub.add_argument("--json", metavar="FILE", help="also write the scores here")
    sub = add("convert", _convert, "Write a checkpoint of any known layout in ours, and say what it holds.")
    sub.add_argument("source", metavar="IN", help="a checkpoint of the whole network")
    sub.add_argument("target", metavar="OUT", help=".pth or .safetensors")
    sub.add_argument("--config", metavar="YAML", help="its experiment (default: the one of configs/ that it fits)")
    sub.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the experiment")
    add_check(
        add("check", check, "Read a whole data set and report what is wrong with it; exit code 1 if something is.")
    )
    add_cache(add("cache", cache, "Decode the training and validation samples of an experiment into its cache."))
    sub = add("config", _config, "Print the resolved experiment.")
    add_experiment(sub)
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
