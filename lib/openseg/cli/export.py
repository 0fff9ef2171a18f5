"""``main.py export``: a network for programs without PyTorch, or without this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from openseg.cli.common import add_config, config_of
from openseg.errors import OpensegError

if TYPE_CHECKING:
    from openseg.config import Config

__all__ = ["add_export", "export"]

_SAME = 0.999  # share of pixels; random weights have near ties


def add_export(parser: argparse.ArgumentParser) -> None:
    """Options of ``export``."""
    parser.add_argument("out", metavar="OUT", help=".onnx, or .pt2 of torch.export")
    add_config(parser)
    parser.add_argument("--checkpoint", metavar="PTH", help="default: <name>_latest.pth below --checkpoints")
    parser.add_argument("--checkpoints", default="checkpoints", metavar="DIR", help="root of the checkpoints")
    parser.add_argument(
        "--output",
        choices=("logits", "labels", "offsets"),
        help="logits [B,K,H,W] or labels uint8[B,H,W] of a semantic network, offsets uint8[B,H,W] of SegFix "
        "(default: logits, offsets)",
    )


def export(arguments: argparse.Namespace) -> None:
    """Write the network, and say how far it agrees with PyTorch.

    Raises:
        OpensegError: the file exists, a package is missing, or the written file gives other numbers.
    """
    from openseg.cli.predict import checkpoint_of
    from openseg.inference.prepare import prepare_for_inference
    from openseg.io.files import file_hash
    from openseg.models.checkpoint.io import load_model
    from openseg.tools.export import OUTPUTS, Exportable, compare, write_exported

    out = Path(arguments.out)
    if out.exists():
        raise OpensegError(f"{out}: already exists; move it away, or write to another file")
    config = config_of(arguments)
    path = checkpoint_of(arguments, config)
    output = arguments.output or OUTPUTS[config.task][0]
    _tell_passes(config)
    model, report = load_model(config, path)
    print(f"{path}: {report}", flush=True)
    network = Exportable(prepare_for_inference(model), config, output).eval()
    write_exported(out, network, {"classes": list(config.dataset_info.classes), **_notes(config, file_hash(path))})
    print(f"written: {out}; input images: float32[batch, 3, height, width], RGB from 0 to 255; output {output}")
    found = [*compare(out, network)]
    if any(each.same < _SAME for each in found):
        out.unlink()
        raise OpensegError(
            f"{out}: gave other classes than PyTorch ({100 * min(e.same for e in found):.2f} % the same)"
        )
    for shape, difference, same in found:
        print(f"compared with PyTorch, {list(shape)}: largest difference {difference:.2g}, {100 * same:.3f} % the same")


def _notes(config: Config, checkpoint: str) -> dict[str, str]:
    return {"config": config.name, "dataset": config.dataset_info.name, "checkpoint": checkpoint}


def _tell_passes(config: Config) -> None:
    """Say what val does and the file does not."""
    how, data = config.test.ss, config.data
    steps = {
        f"scales {list(how.scales)}": how.scales != (1.0,),
        "mirror images": how.flip,
        f"padding to multiples of {how.pad_to}": how.pad_to > 1,
        f"windows of {config.test.window}": config.test.window is not None,
        f"images with a shorter side of {data.short_side}": data.short_side is not None,
        f"images of {data.size}": data.size is not None,
    }
    more = [name for name, used in steps.items() if used]
    if more:
        print(f"the file does one pass at the size that images have; val also uses {', '.join(more)}")
