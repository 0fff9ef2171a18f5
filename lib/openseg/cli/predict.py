"""``main.py val | test | predict | offsets``: what trained networks say of images."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from openseg.cli.common import add_config, add_device, config_of

if TYPE_CHECKING:
    from openseg.config import Config
    from openseg.datasets.splits import Pair
    from openseg.distributed import Group
    from openseg.inference.folder import Outputs
    from openseg.inference.predictor import Predictor

__all__ = ["add_offsets", "add_predict", "add_test", "add_val", "checkpoint_of", "offsets", "predict", "test", "val"]

_ARRAYS = ("logits", "probabilities")
_REPORT = "report"  # a page about all images


def _add_network(parser: argparse.ArgumentParser, out: str) -> None:
    add_config(parser)
    parser.add_argument("--checkpoint", metavar="PTH", help="default: <name>_latest.pth below --checkpoints")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
    parser.add_argument("--out", metavar="DIR", help=f"default: {out}")
    parser.add_argument("--overwrite", action="store_true", help="make again what already exists")
    add_device(parser)


def _add_semantic(parser: argparse.ArgumentParser, kinds: tuple[str, ...], default: tuple[str, ...], out: str) -> None:
    _add_network(parser, out)
    parser.add_argument("--mode", choices=("ss", "ms"), default="ss", help="single or multi-scale (default: ss)")
    parser.add_argument(
        "--also",
        default=default,
        type=lambda text: _kinds(text, kinds),
        metavar="KIND,KIND",
        help=f"beside label/: {', '.join(kinds)}, or none (default: {','.join(default)})",
    )


def _kinds(text: str, known: tuple[str, ...]) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(part for part in text.split(",") if part not in ("", "none")))
    if not set(kinds) <= set(known):
        raise argparse.ArgumentTypeError(f"{text!r} is not none or some of {', '.join(known)}, parted by commas")
    return kinds


def add_val(parser: argparse.ArgumentParser) -> None:
    """Options of ``val``."""
    kinds = ("vis", _REPORT, *_ARRAYS)
    _add_semantic(parser, kinds, ("vis", _REPORT), "<data root>/seg_result/<dataset>/<name>_val, or _val_ms")


def add_test(parser: argparse.ArgumentParser) -> None:
    """Options of ``test``."""
    out = "<data root>/seg_result/<dataset>/<name>_<split>_<mode>"
    _add_semantic(parser, ("vis", *_ARRAYS), ("vis",), out)
    parser.add_argument("--split", default="test", help="default: test")


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Options of ``predict``."""
    parser.add_argument("input", metavar="INPUT", help="an image, a folder of images, or a video")
    kinds = ("vis", "overlay", *_ARRAYS)
    _add_semantic(parser, kinds, ("vis", "overlay"), "predictions/<name>/<name of the input>")


def add_offsets(parser: argparse.ArgumentParser) -> None:
    """Options of ``offsets``."""
    _add_network(parser, "offset_pred/<split>/semantic/<dataset>/offset_<backbone>, or offset_pred/images/<folder>")
    parser.add_argument("--split", default="val", help="default: val")
    parser.add_argument("--images", metavar="DIR", help="a folder of images instead of a split")
    parser.add_argument(
        "--format",
        choices=("png", "mat", "mat-int32"),
        default="png",
        help="png: ours; mat: the original's with int8; mat-int32: exactly the original's (default: png)",
    )


def checkpoint_of(arguments: argparse.Namespace, config: Config) -> Path:
    """The checkpoint that ``--checkpoint`` names, or the config's below ``--checkpoints``.

    Raises:
        CheckpointError: there is none.
    """
    from openseg.errors import CheckpointError
    from openseg.training.checkpoints import find_checkpoint

    path = Path(arguments.checkpoint) if arguments.checkpoint else None
    if path is not None and not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint")
    return path or find_checkpoint(config, Path(arguments.checkpoints))


def _checkpoint(arguments: argparse.Namespace, task: str, other: str) -> tuple[Config, Path]:
    """The config and its checkpoint's path; ``other`` is the command of other tasks.

    Raises:
        ConfigError: the config is of another task.
        CheckpointError: there is no checkpoint.
    """
    from openseg.errors import ConfigError

    config = config_of(arguments)
    if config.task != task:
        raise ConfigError(f"{config.name} is a config of task {config.task}; use the command '{other}'")
    return config, checkpoint_of(arguments, config)


def _predictor(arguments: argparse.Namespace, group: Group, windows_when_full: bool) -> tuple[Predictor, dict]:
    """The network, and what is recorded beside its results."""
    from openseg.inference.predictor import Predictor
    from openseg.io.files import file_hash

    config, path = _checkpoint(arguments, "semantic", "offsets")
    # Before loading: a training that replaces the file meanwhile then costs a prediction, and mixes nothing.
    made_by = {"checkpoint": file_hash(path)}
    predictor = Predictor(
        config, path, mode=arguments.mode, device=arguments.device, windows_when_full=windows_when_full
    )
    if group.first:
        print(f"{path}: {predictor.report}", flush=True)
    return predictor, made_by


def _outputs(arguments: argparse.Namespace, folder: Path, others: str = "replace") -> Outputs:
    from openseg.inference.folder import Outputs

    kinds = tuple(kind for kind in arguments.also if kind != _REPORT)
    return Outputs(folder, kinds, "overwrite" if arguments.overwrite else others)


def _result_dir(arguments: argparse.Namespace, config: Config, what: str) -> Path:
    default = config.data.root / "seg_result" / config.dataset_info.name / f"{config.name}_{what}"
    return Path(arguments.out or default)


def val(arguments: argparse.Namespace) -> None:
    """Predict the validation split, write labels and scores."""
    from openseg.datasets.splits import list_split
    from openseg.distributed import process_group
    from openseg.errors import DataError
    from openseg.inference.folder import predict_images

    with process_group() as group:
        predictor, made_by = _predictor(arguments, group, windows_when_full=False)
        config = predictor.config
        pairs = list_split(config, config.data.val_split)
        outputs = _outputs(arguments, _result_dir(arguments, config, f"val{'' if arguments.mode == 'ss' else '_ms'}"))
        images = {pair.image.stem: pair.image for pair in pairs}
        if len(images) < len(pairs):
            (name, count), *_ = Counter(pair.image.stem for pair in pairs).most_common(1)
            raise DataError(f"{images[name]}: {count} images have this name; validate one split after the other")
        source = _source(pairs[0].image.parent, config.data.val_split)
        predict_images(predictor, images, outputs, made_by | source, group)
        if group.first:
            _score(config, outputs, pairs, _REPORT in arguments.also)


def _source(path: Path, split: str = "") -> dict[str, str]:
    return {"images": str(path.resolve()), "split": split}


def _score(config: Config, outputs: Outputs, pairs: list[Pair], wants_report: bool) -> None:
    from openseg.cli.evaluate import instance_maps
    from openseg.cli.report import write_page
    from openseg.datasets.splits import split_paths
    from openseg.tools.report.html import Report
    from openseg.tools.report.samples import Sample
    from openseg.tools.report.tables import write_scores

    info, split = config.dataset_info, config.data.val_split
    maps = {}
    if "+" not in split:
        paths = split_paths(info, config.data_dir, split)
        maps = instance_maps(info, paths, [pair.key for pair in pairs])
    folder, workers, name = outputs.folder, os.cpu_count() or 1, config.name
    samples = [Sample(pair.key, (outputs.path("label", pair.image.stem),), pair.label, pair.image) for pair in pairs]
    report = Report(samples, [name], config.data.dataset, workers=workers)
    write_scores(report.score(maps), **outputs.scores)
    if wants_report:
        write_page(report, outputs.report, name)
    print(f"labels: {folder / 'label'}\nscores: {folder / 'scores.json'}, scores.md and confusion.csv beside it")


def test(arguments: argparse.Namespace) -> None:
    """Predict a split that needs no truth."""
    from openseg.datasets.splits import list_images, split_paths
    from openseg.distributed import process_group
    from openseg.inference.folder import predict_images

    with process_group() as group:
        predictor, made_by = _predictor(arguments, group, windows_when_full=False)
        config = predictor.config
        paths = list_images(split_paths(config.dataset_info, config.data_dir, arguments.split))
        outputs = _outputs(arguments, _result_dir(arguments, config, f"{arguments.split}_{arguments.mode}"))
        images = {path.stem: path for path in paths}
        predict_images(predictor, images, outputs, made_by | _source(paths[0].parent, arguments.split), group)
        if group.first:
            print(f"labels: {outputs.folder / 'label'}")


def predict(arguments: argparse.Namespace) -> int:
    """Predict an image, a folder or a video; exit code 1 if some images could not be read."""
    from openseg.cli.memory import limit_memory
    from openseg.cli.video import VIDEO_SUFFIXES, predict_video
    from openseg.distributed import process_group
    from openseg.errors import DataError, OpensegError
    from openseg.inference.folder import predict_images
    from openseg.io.files import IMAGE_SUFFIXES

    source = Path(arguments.input)
    if not source.exists():
        raise DataError(f"{source}: no such image, folder or video")
    more = [each for each in arguments.overrides if "=" not in each]
    if more:
        raise DataError(f"{more[0]}: predict takes one INPUT; put several images into a folder")
    is_video = source.suffix.lower() in VIDEO_SUFFIXES and source.is_file()
    if not is_video and not source.is_dir() and source.suffix.lower() not in IMAGE_SUFFIXES:
        known = ", ".join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))
        raise DataError(f"{source}: neither a folder nor a file that ends in one of {known}")
    broken: list[OpensegError] = []
    with process_group() as group:
        predictor, made_by = _predictor(arguments, group, windows_when_full=True)
        name = source.resolve().name if source.is_dir() else source.stem
        folder = Path(arguments.out or Path("predictions") / predictor.config.name / (name or "root"))
        outputs = _outputs(arguments, folder, others="refuse")
        made_by |= _source(source)
        limit = limit_memory(group.world) if predictor.device.type == "cpu" else contextlib.nullcontext()
        with limit:
            if is_video:
                predict_video(predictor, source, outputs, made_by, group)
            else:
                predict_images(predictor, _images(source, folder), outputs, made_by, group, broken)
        if group.first:
            print(f"{', '.join(('label', *outputs.kinds))}: {folder}")
    for error in broken:
        print(f"error: left out: {error}", file=sys.stderr)
    return 1 if broken else 0


def _images(source: Path, out: Path) -> dict[str, Path]:
    """The images of a folder, or one image, by the names of their results; results of predictions are left out."""
    from openseg.errors import DataError
    from openseg.io.files import list_files

    if not source.is_dir():
        return {source.stem: source}
    if out.resolve() == source.resolve():
        raise DataError(f"--out {out}: is the folder of the images; choose another one")
    results: dict[Path, bool] = {source: False, source.parent: False}

    def is_result(folder: Path) -> bool:
        if folder not in results:
            results[folder] = (folder / "made_by.json").exists() or is_result(folder.parent)
        return results[folder]

    files = [path for path in list_files(source) if not is_result(path.parent)]
    if not files:
        raise DataError(f"{source}: no image but those of earlier predictions")
    images = {path.relative_to(source).with_suffix("").as_posix(): path for path in files}
    if len(images) < len(files):
        twice = next(path for path in files if images[path.relative_to(source).with_suffix("").as_posix()] != path)
        raise DataError(f"{twice}: another image has the same name with another suffix; rename one")
    return images


def offsets(arguments: argparse.Namespace) -> int:
    """Predict the SegFix offsets of a split or a folder; exit code 1 if some images could not be read."""
    from openseg.datasets.splits import list_images, split_paths
    from openseg.distributed import process_group
    from openseg.errors import OpensegError
    from openseg.inference.offsets import SegFixPredictor, predict_offsets
    from openseg.io.files import file_hash

    config, path = _checkpoint(arguments, "segfix", "val")
    made_by = {"checkpoint": file_hash(path)}
    with process_group() as group:
        predictor = SegFixPredictor(config, path, arguments.device)
        if group.first:
            print(f"{path}: {predictor.report}", flush=True)
        folder = arguments.images or split_paths(config.dataset_info, config.data_dir, arguments.split)
        images = list_images(folder)
        default = f"offset_pred/{arguments.split}/semantic/{config.dataset_info.name}/offset_{config.model.backbone}"
        if arguments.images:
            default = f"offset_pred/images/{Path(arguments.images).resolve().name}"
        out_dir = Path(arguments.out or default)
        made_by |= _source(images[0].parent, "" if arguments.images else arguments.split)
        broken: list[OpensegError] = []
        predict_offsets(predictor, images, out_dir, arguments.format, made_by, group, arguments.overwrite, broken)
        if group.first:
            print(f"offsets: {out_dir}")
    for error in broken:
        print(f"error: left out: {error}", file=sys.stderr)
    return 1 if broken else 0
