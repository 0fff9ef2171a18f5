"""``main.py inspect`` and ``main.py labels``: what is in a config, a checkpoint, a label file."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from openseg.errors import ConfigError, OpensegError

if TYPE_CHECKING:
    import numpy as np

    from openseg.config import Config
    from openseg.datasets.info import DatasetInfo
    from openseg.models.checkpoint.io import Checkpoint

__all__ = ["add_inspect", "add_labels", "inspect", "labels"]

_NAMED = 10


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Options of ``inspect``."""
    parser.add_argument("--config", metavar="YAML", help="the config (default: the one that --checkpoint is of)")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")
    parser.add_argument("--checkpoint", metavar="PTH", help="also say what this file holds, and whether it fits")
    parser.add_argument(
        "--size", nargs=2, type=int, default=(512, 1024), metavar=("H", "W"), help="of an image (default: 512 1024)"
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def inspect(arguments: argparse.Namespace) -> int:
    """Print what a network costs and what a checkpoint holds; exit code 1 if the one does not fit the other."""
    if not arguments.config and not arguments.checkpoint:
        raise ConfigError("inspect what? name a config by --config, a checkpoint by --checkpoint, or both")
    if min(arguments.size) < 32:
        raise ConfigError(f"--size {arguments.size[0]} {arguments.size[1]}: networks take 32 pixels and more")
    with contextlib.redirect_stdout(sys.stderr):  # what is said on the way is no part of the result
        found = _inspect(arguments)
    print(json.dumps(found, indent=1) if arguments.json else _text(found))
    return 0 if found.get("checkpoint", {}).get("fits", True) else 1


def _inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    from openseg.config import load_config
    from openseg.tools.summary import summarize

    found: dict[str, Any] = {}
    config = load_config(arguments.config, arguments.overrides) if arguments.config else None
    if arguments.checkpoint:
        config, found["checkpoint"] = _checkpoint(arguments, config)
    network = {"name": config.name, "task": config.task, "backbone": config.model.backbone}
    if config.task == "semantic":
        network["head"] = config.model.head
    network["dataset"] = f"{config.dataset_info.name}, {config.dataset_info.num_classes} classes"
    return {
        "network": network,
        "config": config.dump(),
        "costs": summarize(config, tuple(arguments.size)),
        **found,
    }


def _checkpoint(arguments: argparse.Namespace, config: Config | None) -> tuple[Config, dict[str, Any]]:
    """The config, fitted to the file if that can be, and what the file holds."""
    import torch

    from openseg.cli.convert import recognize
    from openseg.io.files import file_hash
    from openseg.models.checkpoint.io import compare_classes, fit_config, match_weights, read_checkpoint
    from openseg.models.factory import build_model

    checkpoint = read_checkpoint(arguments.checkpoint)
    config = config or recognize(checkpoint, arguments.overrides)
    problem = ""
    try:
        config = fit_config(config, checkpoint)
        compare_classes(config, checkpoint)
    except OpensegError as error:
        problem = str(error)
    with torch.device("meta"):
        model = build_model(config)
    _, report = match_weights(checkpoint.weights, model)
    keys = {name: getattr(report, name) for name in ("renamed", "filled", "missing", "unexpected", "shape_mismatch")}
    found = {
        "file": str(checkpoint.path),
        "sha256": file_hash(checkpoint.path),
        "layout": checkpoint.converted.layout,
        "fits": report.complete and not problem,
        "problem": problem,
        "keys": str(report),
        **{name: values for name, values in keys.items() if values},
    }
    return config, found | _metadata(checkpoint)


def _metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """What one of our own files says beside its weights."""
    content = checkpoint.content
    found = {name: content[name] for name in ("iteration", "validated", "best") if name in content}
    if content.get("scores"):
        found["scores"] = content["scores"]
    return found


def _text(found: dict[str, Any]) -> str:
    costs = found["costs"]
    height, width = costs["size"]
    parts = ", ".join(f"{name} {count / 1e6:.2f}" for name, count in costs["parts"].items())
    live = costs["activations MiB"]
    lines = [f"{key:<12}{value}" for key, value in found["network"].items()]
    lines += [
        f"parameters  {costs['parameters'] / 1e6:.2f} million ({parts}), {costs['weights MiB']:.0f} MiB in float32",
        f"operations  {costs['GFLOPs']:.1f} GFLOPs for an image of {height} x {width} (two for a multiply-add)",
        f"activations {live['prediction']:.0f} MiB in prediction, {live['training']:.0f} MiB an image in training",
    ]
    for key, value in found.get("checkpoint", {}).items():
        if isinstance(value, dict):
            value = ", ".join(f"{name} {score:.4f}" for name, score in value.items())
        if isinstance(value, list):
            more = f" and {len(value) - _NAMED} more (--json has all)" if len(value) > _NAMED else ""
            value = f"{', '.join(value[:_NAMED])}{more}"
        if value != "":
            lines.append(f"{key:<12}{value}")
    settings = {name: found["config"][name] for name in ("model", "normalization")}
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return "\n".join([*lines, "", text, "(the whole config: --json, or main.py config)"])


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Options of ``labels``."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="label maps")
    parser.add_argument("--dataset", help="whose ids they hold, for names: a name, or a YAML file of your own")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def labels(arguments: argparse.Namespace) -> int:
    """Say what label files hold; exit code 1 if one holds values that are none of the dataset's."""
    from openseg.datasets.registry import get_dataset_info

    info = get_dataset_info(arguments.dataset) if arguments.dataset else None
    found = [_label_file(Path(path), info) for path in arguments.files]
    if arguments.json:
        print(json.dumps(found, indent=1))
    else:
        print("\n\n".join(_label_text(each) for each in found))
    return 1 if any(each.get("unknown") for each in found) else 0


def _label_file(path: Path, info: DatasetInfo | None) -> dict[str, Any]:
    from openseg.io.images import color_mode, read_color_label, read_label, read_palette

    mode = color_mode(path)
    colors = mode in ("RGB", "RGBA") or (mode == "P" and info is not None and bool(info.label_colors))
    pixels = read_color_label(path) if colors else read_label(path)
    palette = read_palette(path) if mode == "P" and not colors else None
    values = _values(pixels, palette, info)
    return {
        "file": str(path),
        "size": list(pixels.shape[:2]),
        "kind": "colors" if colors else f"{pixels.dtype.name} ids{', with a palette' if palette else ''}",
        "values": values,
        "unknown": [each["value"] for each in values if each.get("name") == "(unknown)"],
    }


def _values(pixels: np.ndarray, palette: bytes | None, info: DatasetInfo | None) -> list[dict[str, Any]]:
    """Each value with its share, color and name."""
    import numpy as np

    from openseg.labels import IGNORE_INDEX, UNKNOWN

    by_color = pixels.ndim == 3
    found, counts = np.unique(
        pixels.reshape(-1, 3) if by_color else pixels, axis=0 if by_color else None, return_counts=True
    )
    readable = info is not None and (not by_color or bool(info.label_colors))
    rows = []
    for value, count in zip(found, counts, strict=True):
        row: dict[str, Any] = {"value": value.tolist(), "share": count / counts.sum()}
        if palette is not None and 3 * int(value) + 3 <= len(palette):
            row["color"] = list(palette[3 * int(value) : 3 * int(value) + 3])
        if info is not None and not readable:
            row["name"] = "(unknown)"  # colors, where the dataset has ids
        elif info is not None:
            train_id = int(info.encode_known(value.reshape(1, 1, 3) if by_color else value.reshape(1, 1))[0, 0])
            special = {IGNORE_INDEX: "(ignored)", UNKNOWN: "(unknown)"}
            row["name"] = special.get(train_id) or info.classes[train_id]
        rows.append(row)
    return rows


def _label_text(found: dict[str, Any]) -> str:
    from openseg.tools.report.tables import align

    height, width = found["size"]
    columns = [name for name in ("value", "name", "color", "share") if any(name in row for row in found["values"])]
    rows = [["value", *columns[1:-1], "pixels (%)"]]
    for row in found["values"]:
        cells = [str(row.get(name, "")) for name in columns[:-1]]
        rows.append([*cells, f"{100 * row['share']:.3f}"])
    return f"{found['file']}: {height} x {width}, {found['kind']}\n{align(rows)}"
