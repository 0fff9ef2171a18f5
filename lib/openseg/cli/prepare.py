"""The preparation programs below ``lib/datasets/preprocess``: public releases, and SegFix ground truth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from openseg.cli.common import call, run_command
from openseg.cli.options import DEBUG, HelpFormatter, add_options, flag, option, options_of
from openseg.tools.prepare.releases import RELEASES, prepare
from openseg.tools.prepare.targets import make_segfix_targets
from openseg.tools.profile import data_root

__all__ = ["prepare_release", "segfix_targets", "show_targets"]


def prepare_release(name: str, argv: Sequence[str] | None = None) -> int:
    """Prepare a public release; returns the exit code."""
    release = RELEASES[name]
    own = {"dest": "options", "action": "append_const", "default": []}
    options = [
        *options_of(prepare, leave=("release", "data_root", "options")),
        option("--out DIR", "data root (default: DATA_ROOT of config.profile)", dest="data_root"),
        *(flag(f"--{key}", text, **own, const=key) for key, text in release.options.items()),
        DEBUG,
    ]
    description = f"Prepare {release.description}.\n\nInput: {release.layout}"
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    arguments = add_options(parser, options).parse_args(argv)

    def run() -> None:
        arguments.data_root = arguments.data_root or data_root()
        for each in call(prepare, arguments, release=name):
            kinds = ", ".join(each.kinds)
            print(f"{each.split}: {each.samples} samples ({kinds}), {each.written} files written to {each.folder}")

    return run_command(run, arguments.debug)


def segfix_targets(argv: Sequence[str] | None = None, instances: bool = False) -> int:
    """Make SegFix ground truth of label maps or of instance maps; returns the exit code."""
    description = f"Make SegFix ground truth from {'instance' if instances else 'label'} maps."
    parser = argparse.ArgumentParser(description=description, formatter_class=HelpFormatter)
    options = [*options_of(make_segfix_targets, leave=("data_root", "instances")), DEBUG]
    options += [
        option("--ksize N", "kernel size; only 5, for compatibility with the original", type=int, default=5),
        option("--metric NAME", "distance metric; only euc, for compatibility with the original", default="euc"),
    ]
    arguments = add_options(parser, options).parse_args(argv)
    if arguments.ksize != 5 or arguments.metric != "euc":
        parser.error("only --ksize 5 --metric euc are supported, as used for the published networks")
    arguments.instances = instances
    return run_command(lambda: show_targets(arguments), arguments.debug)


def show_targets(arguments: argparse.Namespace) -> None:
    """Make the ground truth and print what was written."""
    for each in call(make_segfix_targets, arguments, data_root=data_root()):
        print(f"{each.split}: {each.made} of {each.total} written to {each.folder}")
