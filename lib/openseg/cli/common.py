"""What the commands share: one-line errors, exit codes, logging, device and config options."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from openseg.errors import Interrupted, OpensegError, is_out_of_memory

if TYPE_CHECKING:
    from openseg.config import Config

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "HelpFormatter",
    "add_config",
    "add_debug",
    "add_device",
    "add_workers",
    "config_of",
    "existing_dir",
    "run_command",
]

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


def add_config(parser: argparse.ArgumentParser) -> None:
    """``--config`` and the overrides."""
    parser.add_argument("--config", required=True, metavar="YAML", help="the config, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the config")


def config_of(arguments: argparse.Namespace) -> Config:
    from openseg.config import load_config

    return load_config(arguments.config, arguments.overrides)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, ...")


def _count(text: str) -> int:
    if not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of processes")
    return int(text)


def add_workers(parser: argparse.ArgumentParser) -> None:
    """``--workers``."""
    parser.add_argument("--workers", type=_count, default=os.cpu_count() or 1, help="processes (default: all cores)")


def add_debug(parser: argparse.ArgumentParser) -> None:
    """``--debug``."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def existing_dir(path: str | Path, what: str) -> Path:
    """``path`` if it is a folder.

    Raises:
        OpensegError: it is not; ``what`` says what it should have been.
    """
    path = Path(path)
    if not path.is_dir():
        raise OpensegError(f"{path}: no such folder ({what})")
    return path
