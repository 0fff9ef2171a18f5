"""The preparation programs below ``lib/datasets/preprocess``: public releases, and SegFix ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from openseg.cli.common import HelpFormatter, add_debug, add_workers, call, positive, run_command
from openseg.cli.profile import data_root
from openseg.segfix.targets import RULES
from openseg.tools.prepare.releases import RELEASES, prepare

__all__ = ["add_targets", "prepare_release", "segfix_targets", "show_targets"]


def prepare_release(name: str, argv: Sequence[str] | None = None) -> int:
    """Prepare a public release; returns the exit code."""
    release = RELEASES[name]
    parser = argparse.ArgumentParser(description=f"Prepare {release.description}.", formatter_class=HelpFormatter)
    text = f"folders, zips or tars of the release: {release.layout}"
    parser.add_argument("--input", dest="inputs", required=True, nargs="+", metavar="PATH", help=text)
    text = "data root (default: DATA_ROOT of config.profile)"
    parser.add_argument("--out", dest="data_root", metavar="DIR", help=text)
    parser.add_argument("--link", action="store_true", help="hard-link unpacked files instead of copying them")
    text = "only the first N samples of each split, for a trial"
    parser.add_argument("--limit", type=positive, metavar="N", help=text)
    for option, description in release.options.items():
        parser.add_argument(f"--{option}", dest="options", action="append_const", const=option, help=description)
    add_workers(parser)
    add_debug(parser)
    parser.set_defaults(options=[])
    arguments = parser.parse_args(argv)

    def run() -> None:
        arguments.data_root = arguments.data_root or data_root()
        for each in call(prepare, arguments, release=name):
            kinds = ", ".join(each.kinds)
            print(f"{each.split}: {each.samples} samples ({kinds}), {each.written} files written to {each.folder}")

    return run_command(run, arguments.debug)


def segfix_targets(argv: Sequence[str] | None = None, instances: bool = False) -> int:
    """Make SegFix ground truth of label maps or of instance maps; returns the exit code."""
    kind = "instance" if instances else "label"
    description = f"Make SegFix ground truth from {kind} maps."
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    add_targets(parser)
    add_debug(parser)
    arguments = parser.parse_args(argv)
    arguments.instances = instances
    return run_command(lambda: show_targets(arguments), arguments.debug)


def add_targets(parser: argparse.ArgumentParser) -> None:
    """Options of all commands that make SegFix ground truth."""
    text = "the dataset's folder (default: $DATA_ROOT/cityscapes, or where the dataset's own file says)"
    parser.add_argument("--datadir", metavar="DIR", help=text)
    parser.add_argument("--split", dest="splits", nargs="+", default=["train", "val"], help="default: train val")
    text = "whose IDs the labels hold: a name, or a YAML file of your own (default: the folder's name)"
    parser.add_argument("--dataset", metavar="NAME", help=text)
    text = "original: as the original's, defects included; clean: small regions count, the border of the image bends "
    text += "nothing, thin objects' middle lines stay (default: original)"
    parser.add_argument("--rule", choices=RULES, default="original", help=text)
    text = "folder inside the split (default: offset_gt/dt_offset, with _inst_w_stuff and _clean)"
    parser.add_argument("--outname", help=text)
    text = "png: ours; mat: the original's (default: as is there, or png)"
    parser.add_argument("--format", choices=("png", "mat"), help=text)
    add_workers(parser)


def show_targets(arguments: argparse.Namespace) -> None:
    """Make the ground truth and say what was made."""
    for each in call("make_segfix_targets", arguments, data_root=data_root()):
        print(f"{each.split}: {each.made} of {each.total} written to {each.folder}")
