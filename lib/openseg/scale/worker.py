"""What every worker of every engine does with a block of inputs."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.blob import Blob
from openseg.io.sources import Source
from openseg.scale.index import Item
from openseg.scale.results import Record, Results, block_key
from openseg.scale.units import Done, Unit

__all__ = ["BlockDone", "Worker"]


class BlockDone(NamedTuple):
    """What the driver hears of a block."""

    inputs: int
    errors: list[str]
    worker: str
    seconds: dict[str, float]


@dataclass
class Worker:
    """Reads, computes, writes. ``threads`` read ahead and write while one input is computed; 0 uses none."""

    unit: Unit
    sources: Sequence[Source]
    results: Results
    optional: frozenset[int] = frozenset()
    threads: int = 0
    shard: tuple[int, int] = (0, 1)
    seconds: dict[str, float] = field(default_factory=dict)

    def start(self) -> None:
        """Load what the work needs."""
        self.unit.start()

    def run(self, block: Sequence[Item]) -> BlockDone:
        """Do a block and record it.

        Raises:
            OpensegError: storage failed, or a result cannot be written. Inputs that cannot be used are recorded.
        """
        self.seconds = dict.fromkeys(("read", "compute", "write"), 0.0)
        scores = None
        records: list[Record] = []
        outputs: list[dict[str, bytes]] = []
        errors: list[str] = []
        for item, done in zip(block, self._through(block), strict=True):
            if isinstance(done, str):
                records.append(Record(item.id, "failed", {"error": done}))
                outputs.append({})
                errors.append(done)
                continue
            records.append(Record(item.id, "ok", done.facts))
            outputs.append(done.outputs if self.results.format != "files" else {})
            if done.scores is not None:
                if scores is None:
                    scores = done.scores
                else:
                    scores.merge(done.scores)
        begin = time.perf_counter()
        more: dict[str, Any] = {} if scores is None else {"counts": scores.counts_dict()}
        self.results.write_block(block_key(block, self.shard), records, outputs, more)
        self._spent("write", begin)
        return BlockDone(len(block), errors, f"{socket.gethostname()}:{os.getpid()}", self.seconds)

    def _through(self, block: Sequence[Item]) -> Iterator[Done | str]:
        """What came of each input, in order: reading and writing run beside computing."""
        if not self.threads:
            for item in block:
                yield self._finish(item, self._compute(self._prepare(item)))
            return
        ahead = 2 * self.threads
        with ThreadPoolExecutor(self.threads) as readers, ThreadPoolExecutor(self.threads) as writers:
            reading: deque[tuple[Item, Future]] = deque()
            writing: deque[Future] = deque()
            waiting = iter(block)
            for item in waiting:
                reading.append((item, readers.submit(self._prepare, item)))
                if len(reading) < ahead:
                    continue
                writing.append(self._next(reading, writers))
                while len(writing) > ahead:
                    yield writing.popleft().result()
            while reading:
                writing.append(self._next(reading, writers))
            while writing:
                yield writing.popleft().result()

    def _next(self, reading: deque[tuple[Item, Future]], writers: ThreadPoolExecutor) -> Future:
        item, prepared = reading.popleft()
        return writers.submit(self._finish, item, self._compute(prepared.result()))

    def _prepare(self, item: Item) -> Any:
        begin = time.perf_counter()
        try:
            return self.unit.prepare([*self._blobs(item)])
        except ConfigError:
            raise
        except OpensegError as error:  # also where storage failed for long: the next run tries again
            return str(error)
        finally:
            self._spent("read", begin)

    def _blobs(self, item: Item) -> Iterator[Blob | None]:
        for number, (source, part) in enumerate(zip(self.sources, item.parts, strict=True)):
            if part is None and number not in self.optional:
                raise DataError(
                    f"{item.parts[0].name if item.parts[0] else item.id} has no {source.role} in {source.place}"
                )
            yield None if part is None else source.read(part)

    def _compute(self, prepared: Any) -> Any:
        if isinstance(prepared, str):
            return prepared
        begin = time.perf_counter()
        try:
            return self.unit.compute(prepared)
        except DataError as error:
            return str(error)
        finally:
            self._spent("compute", begin)

    def _finish(self, item: Item, computed: Any) -> Done | str:
        if isinstance(computed, str):
            return computed
        begin = time.perf_counter()
        try:
            done = self.unit.finish(computed)
        except DataError as error:
            return str(error)
        if done.outputs:
            self.results.write(item.id, done.outputs)
        if self.results.format == "files" and done.outputs:
            done = done._replace(outputs={})
        self._spent("write", begin)
        return done

    def _spent(self, stage: str, begin: float) -> None:
        self.seconds[stage] += time.perf_counter() - begin
