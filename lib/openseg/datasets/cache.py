"""Decoded samples on disk, memory-mapped: a training crop reads only its own part of an image.

One ``.npy`` file for each source file and what was made of it, named by the source's path, size and modification time,
so a changed source is decoded again. Any number of processes may share a folder: files appear whole, and the bytes
used are counted under a lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from openseg.config import Config
from openseg.errors import DataError

__all__ = ["DecodedCache"]

logger = logging.getLogger("openseg")

_HEADER_BYTES = 128
_LEFT_SECONDS = 3600
_VERSION = 1  # of what is kept: one more whenever decoding or SegFix ground truth changes


class DecodedCache:
    """Arrays made of files, kept in ``folder`` up to ``limit`` bytes; what does not fit is made anew each time."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.full = limit <= 0

    @classmethod
    def of(cls, config: Config) -> DecodedCache:
        """The cache that a config asks for; it holds nothing with ``data.cache_gb=0``."""
        data = config.data
        folder = data.cache_dir or data.root / "cache" / config.dataset_info.name
        return cls(folder.absolute(), int(data.cache_gb * 1e9))

    def get(self, path: Path, variant: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """``make()`` for ``path``, from the cache where it is there; read-only and memory-mapped then.

        Args:
            variant: names what ``make`` does, such as decoding an image or making targets of a label map.

        Raises:
            DataError: ``path`` does not exist; and what ``make`` raises.
        """
        if self.limit <= 0:
            return make()
        stem, stamp = self._place(path, variant)
        target = stem.with_name(f"{stem.name}_{stamp}.npy")
        kept = _load(target)
        if kept is not None:
            return kept
        values = make()
        if not self.full:
            self._store(target, values)
        return values

    def _place(self, path: Path, variant: str) -> tuple[Path, str]:
        """Where the arrays of a source are, without the part that changes with its content; and that part."""
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        name = hashlib.sha256(f"{_VERSION}\0{path.absolute()}\0{variant}".encode()).hexdigest()[:32]
        return self.folder / name[:2] / name, f"{status.st_size:x}-{status.st_mtime_ns:x}"

    def _store(self, target: Path, values: np.ndarray) -> None:
        size = values.nbytes + _HEADER_BYTES
        temporary = target.with_name(f".{target.stem}.{os.getpid()}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                np.save(file, values)
                file.flush()
                os.fsync(file.fileno())
            with self._counter() as used:
                if _load(target) is not None:  # another process was faster
                    return
                for stale in target.parent.glob(f"{target.name.partition('_')[0]}_*.npy"):
                    used[0] -= stale.stat().st_size
                    stale.unlink()
                if used[0] + size > self.limit:
                    self.full = True
                    return
                temporary.replace(target)
                used[0] += size
        except OSError as error:
            self._give_up(error)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)

    def _give_up(self, error: OSError) -> None:
        """A cache that cannot grow is no reason to stop a training."""
        self.full = True
        logger.warning("%s: nothing more is kept (%s)", self.folder, error)

    @contextmanager
    def _counter(self) -> Iterator[list[int]]:
        """The bytes in use, as the only process that holds them; what stands in the list afterwards is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "bytes", "a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            used = [int(text) if text.isdigit() else self.measure()]
            try:
                yield used
            finally:
                file.truncate(0)
                file.write(str(max(used[0], 0)))

    def measure(self) -> int:
        """Bytes of all files in the cache."""
        total = 0
        for path in self.folder.glob("??/*.npy"):
            with contextlib.suppress(FileNotFoundError):  # replaced just now
                total += path.stat().st_size
        return total

    def recount(self) -> int:
        """Measure the bytes in use and write them down, since the files may have been changed by hand."""
        try:
            with self._counter() as used:
                used[0] = self.measure()
            return used[0]
        except OSError as error:
            self._give_up(error)
            return self.measure()

    def remove_leftovers(self) -> None:
        """Remove what processes left that were killed while writing."""
        for path in self.folder.glob("??/.*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                    path.unlink()


def _load(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # not there, or damaged on the disk and written anew
        return None
