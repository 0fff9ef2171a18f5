"""What the commands share: one-line errors, exit codes, logging, and options."""

from __future__ import annotations

import argparse
import inspect
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

import openseg
from openseg.errors import Interrupted, OpensegError, is_out_of_memory

__all__ = ["EXIT_ERROR", "EXIT_FOUND", "HelpFormatter", "add_config", "add_debug", "add_device", "add_json"]
__all__ += ["add_metrics", "add_workers", "call", "names", "positive", "run_command", "shown_errors"]

EXIT_FOUND = 1
"""Something was left out, or found wrong."""
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the examples in a description as they are, with room for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


class _BarHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


def run_command(command: Callable[[], int | None], debug: bool) -> int:
    """Run a command: expected failures become one line on stderr and exit code 2, Ctrl-C 130.

    ``debug`` shows the traceback instead.
    """
    logger = logging.getLogger("openseg")
    if not logger.handlers:
        logger.addHandler(_BarHandler())
    logger.setLevel(logging.INFO)
    try:
        return command() or 0
    except Interrupted as error:
        print(error, file=sys.stderr)
        return EXIT_INTERRUPTED
    except KeyboardInterrupt:
        print("interrupted; what was written is whole", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        return EXIT_ERROR
    except (OpensegError, OSError) as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return EXIT_ERROR
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        fix = "train with a smaller train.batch_size or augment.crop_size; predict in windows, test.window=[512,1024], "
        print(f"error: out of memory; {fix}which changes scores slightly, or --device cpu", file=sys.stderr)
        return EXIT_ERROR


def call(function: str | Callable[..., Any], arguments: argparse.Namespace, **more: Any) -> Any:
    """A keyword function with the options that carry the names of its parameters."""
    target = getattr(openseg, function) if isinstance(function, str) else function
    known = inspect.signature(target).parameters
    return target(**{name: value for name, value in vars(arguments).items() if name in known} | more)


def shown_errors(problems: list[str]) -> int:
    """Print what was left out; returns the exit code."""
    for problem in problems:
        print(f"error: left out: {problem}", file=sys.stderr)
    return EXIT_FOUND if problems else 0


def add_config(parser: argparse.ArgumentParser, required: bool = True, text: str = "the config, see configs/") -> None:
    """``--config`` and the overrides."""
    parser.add_argument("--config", required=required, metavar="YAML", help=text)
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")


def add_device(parser: argparse.ArgumentParser) -> None:
    """``--device``."""
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, ...")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """``--workers``."""
    cores = os.cpu_count() or 1
    parser.add_argument("--workers", type=_count, default=cores, help="processes (default: all cores)")


def add_metrics(parser: argparse.ArgumentParser) -> None:
    """``--metrics`` and ``--plugins``."""
    parser.add_argument("--metrics", type=names, default=(), metavar="NAME,NAME", help="registered metrics to add")
    text = "Python modules that register metrics, to import first"
    parser.add_argument("--plugins", type=names, default=(), metavar="MODULE,MODULE", help=text)


def add_json(parser: argparse.ArgumentParser, text: str = "also write every score here") -> None:
    """``--json FILE``."""
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)


def add_debug(parser: argparse.ArgumentParser) -> None:
    """``--debug``."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def names(text: str) -> tuple[str, ...]:
    """Names parted by commas."""
    return tuple(dict.fromkeys(part for part in text.split(",") if part))


def positive(text: str) -> int:
    """A number from 1 on."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)
