"""Memory-mapped cache of decoded samples: a training crop reads only its own part of an image.

There is one ``.npy`` file per source file and variant, named by the source's path, size and modification time, so a
changed source is decoded again. Any number of processes may share a folder: files are written atomically, and the
used bytes are counted under a lock.
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
_VERSION = 1  # format version; increase when decoding or SegFix ground truth changes


class DecodedCache:
    """Cache of arrays in ``folder``, up to ``limit`` bytes; arrays beyond that are computed each time."""

    def __init__(self, folder: Path, limit: int) -> None:
        self.folder, self.limit = folder, limit
        self.full = limit <= 0

    @classmethod
    def of(cls, config: Config) -> DecodedCache:
        """Return the cache of a config; it is empty with ``data.cache_gb=0``."""
        data = config.data
        folder = data.cache_dir or data.root / "cache" / config.dataset_info.name
        return cls(folder.absolute(), int(data.cache_gb * 1e9))

    def get(self, path: Path, variant: str, make: Callable[[], np.ndarray]) -> np.ndarray:
        """Return ``make()`` for ``path``, from the cache if possible (then read-only and memory-mapped).

        Args:
            variant: name of what ``make`` computes, such as a decoded image or targets.

        Raises:
            DataError: ``path`` does not exist; errors of ``make`` pass through.
        """
        if self.limit <= 0:
            return make()
        target = self._place(path, variant)
        kept = _load(target)
        if kept is not None:
            return kept
        values = make()
        if not self.full:
            self._store(target, values)
        return values

    def find(self, path: Path, variant: str) -> np.ndarray | None:
        """Return what is kept of ``path``, read-only and memory-mapped, or None.

        Raises:
            DataError: ``path`` does not exist.
        """
        return _load(self._place(path, variant))

    def _place(self, path: Path, variant: str) -> Path:
        """Return where a source's array is: what comes after the underscore changes with its content."""
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        name = hashlib.sha256(f"{_VERSION}\0{path.absolute()}\0{variant}".encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}_{status.st_size:x}-{status.st_mtime_ns:x}.npy"

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
                if _load(target) is not None:  # another process wrote it first
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
        """Disable writing; a cache that cannot grow must not stop training."""
        self.full = True
        logger.warning("%s: nothing more is kept (%s)", self.folder, error)

    @contextmanager
    def _counter(self) -> Iterator[list[int]]:
        """Lock and yield the number of used bytes in a list; its value is stored at the end."""
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
        """Return the size of all files in the cache, in bytes."""
        total = 0
        for path in self.folder.glob("??/*.npy"):
            with contextlib.suppress(FileNotFoundError):  # replaced meanwhile
                total += path.stat().st_size
        return total

    def recount(self) -> int:
        """Measure and store the number of used bytes, since files may have been removed by hand."""
        try:
            with self._counter() as used:
                used[0] = self.measure()
            return used[0]
        except OSError as error:
            self._give_up(error)
            return self.measure()

    def remove_leftovers(self) -> None:
        """Remove temporary files of killed processes."""
        for path in self.folder.glob("??/.*.part"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _LEFT_SECONDS:
                    path.unlink()


def _load(path: Path) -> np.ndarray | None:
    try:
        return np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # missing or damaged; written again
        return None
