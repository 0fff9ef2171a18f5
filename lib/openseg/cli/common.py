"""Shared parts of the commands: one-line errors, exit codes, logging, and calls of keyword functions."""

from __future__ import annotations

import argparse
import inspect
import logging
import sys
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

import openseg
from openseg.errors import Interrupted, OpensegError, is_out_of_memory, printable
from openseg.io.files import noticing
from openseg.io.streams import make_streams_safe

__all__ = ["EXIT_ERROR", "EXIT_FOUND", "call", "run_command", "shown_errors"]

EXIT_FOUND = 1
"""Something was left out, or found wrong; each such file was named."""
EXIT_ERROR = 2
EXIT_INTERRUPTED = 130


class _BarHandler(logging.Handler):
    """Logging handler that prints above progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(printable(self.format(record), keep="\n\t"), file=sys.stdout)
        sys.stdout.flush()


def run_command(command: Callable[[], int | None], debug: bool) -> int:
    """Run a command; expected errors become one line on stderr and exit code 2, Ctrl-C exit code 130.

    ``debug`` shows the traceback instead.
    """
    make_streams_safe()
    code = _exit_code(command, debug)
    distributed = sys.modules.get("openseg.distributed")
    if distributed is not None:  # otherwise it is not one of several processes
        distributed.leave_at_once(code)
    return code


def _exit_code(command: Callable[[], int | None], debug: bool) -> int:
    logger = logging.getLogger("openseg")
    if not logger.handlers:
        logger.addHandler(_BarHandler())
    logger.setLevel(logging.INFO)
    try:
        with noticing() as left_out:
            return command() or (EXIT_FOUND if left_out else 0)
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
        print(f"error: {printable(error)}", file=sys.stderr)
        return EXIT_ERROR
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        fix = "train with a smaller train.batch_size or augment.crop_size; predict in windows, test.window=[512,1024], "
        print(f"error: out of memory; {fix}which changes scores slightly, or --device cpu", file=sys.stderr)
        return EXIT_ERROR


def call(function: str | Callable[..., Any], arguments: argparse.Namespace, **more: Any) -> Any:
    """Call a keyword function with the options named like its parameters."""
    target = getattr(openseg, function) if isinstance(function, str) else function
    known = inspect.signature(target).parameters
    return target(**{name: value for name, value in vars(arguments).items() if name in known} | more)


def shown_errors(problems: list[str]) -> int:
    """Print what was left out and return the exit code."""
    for problem in problems:
        print(f"error: left out: {printable(problem)}", file=sys.stderr)
    return EXIT_FOUND if problems else 0
