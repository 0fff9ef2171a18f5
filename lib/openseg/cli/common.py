"""What the commands share: one-line errors, exit codes, logging, device and experiment options."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from openseg.errors import ConfigError, Interrupted, OpensegError
from openseg.progress import progress

if TYPE_CHECKING:
    import torch

    from openseg.config import Experiment

__all__ = [
    "EXIT_ERROR",
    "EXIT_INTERRUPTED",
    "HelpFormatter",
    "add_debug",
    "add_device",
    "add_experiment",
    "add_workers",
    "existing_dir",
    "experiment_of",
    "map_parallel",
    "pick_device",
    "run_command",
    "run_parallel",
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
        if debug or not (isinstance(error, MemoryError) or "out of memory" in str(error)):
            raise
        mend = "use a smaller train.batch_size or augment.crop_size, for SegFix a test.window, or --device cpu"
        print(f"error: out of memory; {mend}", file=sys.stderr)
        return EXIT_ERROR


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """``--config`` and the overrides."""
    parser.add_argument("--config", required=True, metavar="YAML", help="the experiment, see configs/")
    parser.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replace values of the experiment")


def experiment_of(arguments: argparse.Namespace) -> Experiment:
    from openseg.config import load_experiment

    return load_experiment(arguments.config, arguments.overrides)


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="auto", help="auto (a GPU when there is one), cpu, cuda, cuda:1, ...")


def add_workers(parser: argparse.ArgumentParser) -> None:
    """``--workers``."""
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: all cores)")


def add_debug(parser: argparse.ArgumentParser) -> None:
    """``--debug``."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def pick_device(name: str) -> torch.device:
    """The device by name.

    Raises:
        ConfigError: no such device here.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        return device
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu or auto") from None


def map_parallel(work: Callable[[Any], Any], items: Sequence[Any], what: str, workers: int) -> Iterator[Any]:
    """``work(item)`` of every item, in order, by ``workers`` processes under a progress bar; a failure is raised."""
    if workers <= 1 or len(items) <= 1:
        for item in progress(items, len(items), what):
            yield work(item)
        return
    chunk = max(min(len(items) // (8 * workers), 64), 1)
    with ProcessPoolExecutor(workers, initializer=_ignore_interrupts) as pool:
        try:
            yield from progress(pool.map(work, items, chunksize=chunk), len(items), what)
        except BrokenProcessPool:
            raise OpensegError(f"{what}: a worker process died, perhaps out of memory; use fewer --workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def run_parallel(work: Callable[[Any], None], items: Sequence[Any], what: str, workers: int) -> None:
    """``map_parallel`` for work that gives nothing back."""
    for _ in map_parallel(work, items, what, workers):
        pass


def _ignore_interrupts() -> None:
    """Ctrl-C reaches the whole process group; the parent handles it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def existing_dir(path: str | Path, what: str) -> Path:
    """``path`` if it is a folder.

    Raises:
        OpensegError: it is not; ``what`` says what it should have been.
    """
    path = Path(path)
    if not path.is_dir():
        raise OpensegError(f"{path}: no such folder ({what})")
    return path
