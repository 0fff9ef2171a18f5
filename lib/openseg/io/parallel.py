"""Parallel work by processes or threads, in order, with errors raised in the caller."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import cv2

from openseg.errors import OpensegError
from openseg.io.progress import progress
from openseg.plugins import load_plugins, loaded_plugins

__all__ = ["Writers", "init_worker", "map_parallel", "run_parallel"]

_CHUNK = 16


def map_parallel(work: Callable[[Any], Any], items: Sequence[Any], what: str, workers: int) -> Iterator[Any]:
    """Yield ``work(item)`` of every item, in order, computed by ``workers`` processes; errors are raised."""
    if workers <= 1 or len(items) <= 1:
        for item in progress(items, len(items), what):
            yield work(item)
        return
    size = max(min(len(items) // (8 * workers), _CHUNK), 1)
    with ProcessPoolExecutor(workers, initializer=init_worker, initargs=(loaded_plugins(),)) as pool:
        try:
            yield from progress(_in_order(pool, work, items, size, 4 * workers), len(items), what)
        except BrokenProcessPool:
            raise OpensegError(f"{what}: a worker process died, perhaps out of memory; use fewer --workers") from None
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _in_order(
    pool: ProcessPoolExecutor, work: Callable[[Any], Any], items: Sequence[Any], size: int, most: int
) -> Iterator[Any]:
    """Yield results in the order of ``items``, with at most ``most`` chunks in progress, which bounds memory."""
    pending: deque[Future] = deque()
    for first in range(0, len(items), size):
        if len(pending) >= most:
            yield from pending.popleft().result()
        pending.append(pool.submit(_work_through, work, items[first : first + size]))
    while pending:
        yield from pending.popleft().result()


def _work_through(work: Callable[[Any], Any], items: Sequence[Any]) -> list[Any]:
    return [work(item) for item in items]


def run_parallel(work: Callable[[Any], None], items: Sequence[Any], what: str, workers: int) -> None:
    """Run ``map_parallel`` for work without results."""
    for _ in map_parallel(work, items, what, workers):
        pass


def init_worker(plugins: list[tuple[str, tuple[str, ...]]]) -> None:
    """Prepare a process of a pool: it ends with its parent, leaves Ctrl-C to it, and knows its plugins."""
    threading.Thread(target=_die_with_parent, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent handles it
    for name, folders in plugins:  # a process that is no fork of this one knows nothing of them
        load_plugins([name], [Path(folder) for folder in folders])
    cv2.setNumThreads(0)  # its threads do not survive the fork, and every core has its process


def _die_with_parent() -> None:
    """Ask the kernel to end this worker with its parent; it would otherwise write beside the next call's workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    os._exit(1)


class Writers:
    """Threads that write files while the caller computes, with at most ``2 * threads`` queued tasks."""

    def __init__(self, threads: int = 2) -> None:
        self._pool = ThreadPoolExecutor(threads)
        self._pending: deque[Future] = deque()
        self._most = 2 * threads

    def submit(self, work: Callable[..., None], *arguments: Any) -> None:
        """Run ``work(*arguments)`` in a thread; an error is raised by a later call or at the end."""
        while len(self._pending) >= self._most:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(work, *arguments))

    def __enter__(self) -> Writers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.shutdown(wait=True)
        while kind is None and self._pending:
            self._pending.popleft().result()
