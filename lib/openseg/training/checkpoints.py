"""Checkpoint files: locations, retention and look-up.

``<root>/<dataset>/<name>_latest.pth`` and ``_best.pth``, and earlier states as ``_iter<N>.pth``; written to a temporary
file, fsynced and renamed. The archive inside has a checksum of every tensor, which reading compares. Look-up is in
``<root>/<dataset>/`` first (``checkpoints`` by default), then in ``~/checkpoints/<dataset>/``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from openseg.config import Config
from openseg.errors import CheckpointError
from openseg.io.files import short_stem
from openseg.models.checkpoint.io import Checkpoint, read_checkpoint

__all__ = [
    "best_path",
    "exclusive",
    "find_checkpoint",
    "keep_latest",
    "latest_path",
    "newest_readable",
    "remove_earlier",
    "remove_unfinished",
    "saved_states",
]

fcntl: Any = None
with contextlib.suppress(ImportError):  # Windows
    import fcntl

logger = logging.getLogger("openseg")

PATIENCE = 10.0
"""Seconds that processes of a killed torchrun may need to end."""


def latest_path(config: Config, root: Path) -> Path:
    return root / config.dataset_info.name / f"{config.name}_latest.pth"


def best_path(config: Config, root: Path) -> Path:
    return root / config.dataset_info.name / f"{config.name}_best.pth"


def _earlier_path(latest: Path, iteration: int) -> Path:
    return latest.with_name(latest.name.replace("_latest", f"_iter{iteration}"))


def _earlier_states(latest: Path) -> list[Path]:
    """``_iter<N>.pth`` beside ``latest``, the newest first."""
    pattern = re.compile(re.escape(latest.name).replace("_latest", r"_iter(\d+)"))
    found = [(pattern.fullmatch(path.name), path) for path in latest.parent.glob("*_iter*.pth")]
    return [path for match, path in sorted(((int(m[1]), p) for m, p in found if m), reverse=True)]


def saved_states(latest: Path) -> list[Path]:
    """Return the states that training can resume from, the newest first."""
    return [*([latest] if latest.is_file() else []), *_earlier_states(latest)]


def keep_latest(latest: Path, iteration: int) -> None:
    """Give ``latest`` (of ``iteration``, about to be replaced) a permanent second name, by a hard link if possible."""
    try:
        os.link(latest, _earlier_path(latest, iteration))
    except (FileExistsError, FileNotFoundError):
        pass
    except OSError:  # a file system without links; until the next one is written there is no latest
        os.replace(latest, _earlier_path(latest, iteration))


def remove_earlier(latest: Path, keep: int) -> None:
    """Remove all but the ``keep`` newest earlier states."""
    for path in _earlier_states(latest)[keep:]:
        path.unlink(missing_ok=True)


def newest_readable(latest: Path) -> Checkpoint:
    """Return the newest readable state; damaged files are renamed to ``.damaged``.

    Raises:
        CheckpointError: there is none.
    """
    states = saved_states(latest)
    if not states:
        raise CheckpointError(f"{latest}: nothing to resume from; start with train")
    problems = []
    for path in states:
        try:
            checkpoint = read_checkpoint(path)
        except CheckpointError as error:
            problems.append((path, str(error)))
            continue
        for damaged, problem in problems:
            aside = damaged.with_name(f"{damaged.name}.damaged")
            with contextlib.suppress(OSError):
                os.replace(damaged, aside)
            logger.warning("%s; now %s; continuing from the earlier %s", problem, aside.name, path.name)
        return checkpoint
    raise CheckpointError(problems[0][1])


@contextlib.contextmanager
def exclusive(latest: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Lock the checkpoint files against a second training; the lock ends with the process.

    Raises:
        CheckpointError: another process still holds the lock after ``patience`` seconds.
    """
    if fcntl is None:
        yield
        return
    path, deadline = latest.with_name(f".{latest.stem}.lock"), time.monotonic() + patience
    while (file := _lock(path)) is None:
        if time.monotonic() > deadline:
            raise CheckpointError(f"{latest}: another process is training it; wait for it, or use another name")
        time.sleep(0.2)
    with file:
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _lock(path: Path) -> IO | None:
    """Return the open, locked file; None if another process holds the lock."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CheckpointError(f"{path.parent}: cannot be written ({error.strerror or error})") from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else its owner removed it in between
            return file
    except (BlockingIOError, FileNotFoundError):
        pass
    except OSError:  # a file system without locks
        return file
    file.close()
    return None


def remove_unfinished(*paths: Path) -> None:
    """Remove temporary files of killed processes, see ``atomic_write``."""
    for path in paths:
        for unfinished in path.parent.glob(f".{short_stem(path)}.????????.part{path.suffix}"):
            unfinished.unlink(missing_ok=True)


def find_checkpoint(config: Config, root: Path) -> Path:
    """Return the latest checkpoint of a config.

    Raises:
        CheckpointError: not found; the message names the expected paths.
    """
    roots = [root]
    with contextlib.suppress(RuntimeError):  # no HOME, and a user that the system does not know
        roots.append(Path.home() / "checkpoints")
    folders = [folder / config.dataset_info.name for folder in roots]
    name = latest_path(config, root).name
    # The published SegFix file on HRNet-W48 carries its iterations in its name, and HRNeXt was renamed to HRNet2x.
    names = [name, name.replace("_segfix_loss_", "_segfix_loss_iter80000_")]
    for old, new in (("hrnext20", "hrnet2x20"), ("hrnet2x20", "hrnext20")):
        names += [each.replace(old, new) for each in names if old in each]
    names += [Path(each).with_suffix(".safetensors").name for each in names]
    for path in (folder / each for folder in folders for each in names):
        if path.is_file():
            return path
    raise CheckpointError(
        f"no checkpoint {name} in {' or '.join(map(str, folders))}; "
        "train first, or put a downloaded file there under that name"
    )
