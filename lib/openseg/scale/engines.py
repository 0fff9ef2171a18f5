"""Who does the blocks: this process, processes of this machine, or actors of a Ray cluster.

An engine takes blocks from an iterator as workers become free, so that the list of work is never held, and gives what
came of each in any order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Protocol

from openseg.errors import OpensegError
from openseg.io.parallel import init_worker
from openseg.plugins import loaded_plugins
from openseg.scale.index import Item
from openseg.scale.settings import Scale
from openseg.scale.worker import BlockDone, Worker

__all__ = ["Engine", "make_engine"]

Blocks = Iterator[list[Item]]
_THREADS = 4
_worker: Worker | None = None


class Engine(Protocol):
    """Starts its workers when it is made, and gives what came of each block, in any order."""

    def run(self, blocks: Blocks, /) -> Iterator[BlockDone]:
        """Do all blocks.

        Raises:
            OpensegError: a worker died, storage failed, or a result cannot be written.
        """

    def stop(self) -> None:
        """End the workers."""


def make_engine(worker: Worker, how: Scale, workers: int, alone: bool) -> Engine:
    """The engine that was asked for.

    Args:
        workers: processes of ``local``; of ``ray`` see ``Scale``.
        alone: everything must happen in this process, since others cannot see its storage.

    Raises:
        ConfigError: it is not installed.
    """
    one = how.engine == "local" and (alone or worker.unit.uses_network or workers <= 1)
    if worker.unit.uses_network or not worker.results.out.local:
        worker.threads = _THREADS  # requests wait most of the time
    if how.engine == "ray":
        from openseg.scale.on_ray import RayWorkers

        return RayWorkers(worker, how)
    return _Here(worker) if one else _Processes(worker, workers)


@dataclass
class _Here:
    """This process alone: it has the network, or the storage."""

    worker: Worker

    def run(self, blocks: Blocks) -> Iterator[BlockDone]:
        self.worker.start()
        for block in blocks:
            yield self.worker.run(block)

    def stop(self) -> None:
        pass


@dataclass
class _Processes:
    """Processes of this machine."""

    worker: Worker
    workers: int

    def run(self, blocks: Blocks) -> Iterator[BlockDone]:
        with ProcessPoolExecutor(self.workers, initializer=_start, initargs=(self.worker, loaded_plugins())) as pool:
            pending: set[Future[BlockDone]] = set()
            try:
                for block in blocks:
                    pending.add(pool.submit(_run, block))
                    if len(pending) >= 2 * self.workers:
                        done, pending = wait(pending, return_when=FIRST_COMPLETED)
                        for each in done:
                            yield each.result()
                while pending:
                    done, pending = wait(pending, return_when=FIRST_COMPLETED)
                    for each in done:
                        yield each.result()
            except BrokenProcessPool:
                raise OpensegError(
                    "a worker process died, perhaps out of memory; use fewer --workers. What is recorded is kept"
                ) from None
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def stop(self) -> None:
        pass


def _start(worker: Worker, plugins: list[tuple[str, tuple[str, ...]]]) -> None:
    global _worker
    init_worker(plugins)
    _worker = worker
    _worker.start()


def _run(block: Sequence[Item]) -> BlockDone:
    assert _worker is not None, os.getpid()
    return _worker.run(block)
