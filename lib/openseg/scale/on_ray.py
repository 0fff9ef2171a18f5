"""The engine ``ray``: actors that hold the work, fed by the driver with as many blocks as they take.

Ray starts a killed actor again and gives it the same block. A block that kills its worker each time is done input by
input, and the one that does is recorded as failed.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from openseg.errors import ConfigError, OpensegError
from openseg.plugins import load_plugins, loaded_plugins
from openseg.scale.index import Item
from openseg.scale.results import Record, block_key
from openseg.scale.settings import Scale
from openseg.scale.worker import BlockDone, Worker

__all__ = ["Actor", "RayWorkers", "require_ray", "shipped_files"]

logger = logging.getLogger("openseg")

_RETRIES = 3
_QUEUED = 2


def require_ray() -> Any:
    """The module ``ray``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import ray
    except ImportError:
        raise ConfigError("--engine ray needs Ray; pip install 'openseg[ray]'") from None
    return ray


def shipped_files(worker: Worker) -> dict[Path, bytes]:
    """The files that the work reads, for machines that do not have them."""
    return {path: path.read_bytes() for path in worker.unit.files}


class Actor:
    """One worker of the cluster."""

    def __init__(self, worker: Worker, files: dict[Path, bytes], plugins: list[tuple[str, tuple[str, ...]]]) -> None:
        for name, folders in plugins:
            load_plugins([name], [Path(folder) for folder in folders])
        self._worker = worker
        worker.unit.placed({path: _materialized(path, content) for path, content in files.items()})
        worker.start()

    def ready(self) -> None:
        """Answers when it has started."""

    def run(self, block: Sequence[Item]) -> BlockDone | OpensegError:
        """Do a block; an expected error is returned, since Ray wraps those that are raised."""
        try:
            return self._worker.run(block)
        except OpensegError as error:
            return error


def _materialized(path: Path, content: bytes) -> Path:
    """The file where it is, or a copy of it here."""
    if path.is_file() and path.read_bytes() == content:
        return path
    folder = Path(tempfile.gettempdir()) / f"openseg-{hashlib.sha256(content).hexdigest()[:16]}"
    copy = folder / path.name
    if not copy.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = copy.with_name(f".{os.getpid()}.part")
        unfinished.write_bytes(content)
        unfinished.replace(copy)
    return copy


class RayWorkers:
    """Workers on a cluster, started in a thread while the source is listed: Ray takes seconds to start."""

    def __init__(self, worker: Worker, how: Scale) -> None:
        """
        Raises:
            ConfigError: Ray is not installed.
        """
        with contextlib.suppress(ValueError):  # of what was imported in odd ways
            if importlib.util.find_spec("ray") is None:
                require_ray()
        self._worker, self._how = worker, how
        self._thread, self._own = ThreadPoolExecutor(1), False
        self._started = self._thread.submit(self._start)

    def _start(self) -> tuple[Any, list[Any]]:
        ray, how = require_ray(), self._how
        self._own = not ray.is_initialized()
        if self._own:
            _connect(ray, how)
        count = _count(ray, how)
        options = {"num_cpus": how.num_cpus_per_worker, "num_gpus": how.num_gpus_per_worker}
        remote = ray.remote(Actor).options(max_restarts=-1, max_task_retries=_RETRIES, **options)
        files = shipped_files(self._worker)
        self._files = ray.put(files) if files else files  # kept, since actors that start again need it again
        actors = [remote.remote(self._worker, self._files, loaded_plugins()) for _ in range(count)]
        try:  # one that cannot start would fail every block that it is given
            ray.get([actor.ready.remote() for actor in actors])
        except ray.exceptions.RayActorError as error:
            raise OpensegError(f"a worker could not start: {_cause(error)}") from None
        return ray, actors

    def run(self, blocks: Iterator[list[Item]]) -> Iterator[BlockDone]:
        """Do all blocks; see ``engines``."""
        ray, actors = self._started.result()
        yield from _feed(ray, actors, blocks, self._worker)

    def stop(self) -> None:
        """Leave the cluster, or end one that was started here."""
        if self._started.exception() is None:
            ray, actors = self._started.result()
            for actor in () if self._own else actors:
                ray.kill(actor)
        if self._own:
            require_ray().shutdown()
        self._thread.shutdown()


def _connect(ray: Any, how: Scale) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        options: dict[str, Any] = {} if how.address else {"include_dashboard": False}
        if not how.address and how.num_workers:
            options["num_cpus"] = max(int(-(-how.num_workers * how.num_cpus_per_worker // 1)), os.cpu_count() or 1)
        ray.init(address=how.address, log_to_driver=False, logging_level=logging.ERROR, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f" at {how.address}" if how.address else ""
        raise OpensegError(f"no Ray cluster{where}: {str(error).splitlines()[0]}") from None


def _count(ray: Any, how: Scale) -> int:
    """Workers that fit the cluster: one that does not fit would be waited for forever.

    Raises:
        ConfigError: not even one fits, or not as many as were asked for.
    """
    have = ray.cluster_resources()
    fits = int(have.get("CPU", 0) / how.num_cpus_per_worker)
    if how.num_gpus_per_worker:
        fits = min(fits, int(have.get("GPU", 0) / how.num_gpus_per_worker))
    wanted = fits if how.num_workers is None else how.num_workers
    if not 0 < wanted <= fits:
        raise ConfigError(
            f"the cluster has room for {fits} workers of {how.num_cpus_per_worker:g} CPUs and "
            f"{how.num_gpus_per_worker:g} GPUs, not for {max(wanted, 1)}; it has {have.get('CPU', 0):g} CPUs and "
            f"{have.get('GPU', 0):g} GPUs"
        )
    return wanted


def _feed(ray: Any, actors: list[Any], blocks: Iterator[list[Item]], worker: Worker) -> Iterator[BlockDone]:
    """Keep every actor busy: one block in work and one that waits for it.

    Both share the death of their actor. So what is left of a block that killed one is done input by input, each alone
    on its actor, and only the input that does it is recorded.
    """
    pending: dict[Any, tuple[int, list[Item]]] = {}
    load = [0] * len(actors)
    alone: list[list[Item]] = []
    while True:
        while True:
            most = 1 if alone or any(len(block) == 1 for _, block in pending.values()) else _QUEUED
            place = min(range(len(load)), key=load.__getitem__)
            if load[place] >= most:
                break
            block = alone.pop() if alone else next(blocks, None)
            if block is None:
                break
            pending[actors[place].run.remote(block)] = place, block
            load[place] += 1
        if not pending:
            return
        (ready, *_), _ = ray.wait([*pending], num_returns=1)
        place, block = pending.pop(ready)
        load[place] -= 1
        try:
            done = ray.get(ready)
        except ray.exceptions.RayActorError as error:
            if len(block) > 1:
                logger.warning("a worker died %d times over one block; its inputs are done one by one", _RETRIES + 1)
                alone += [[item] for item in block]
                continue
            done = _record_death(worker, block, error)
        if isinstance(done, OpensegError):
            raise done
        yield done


def _cause(error: Exception) -> str:
    """The last line of a message that quotes a worker's traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _record_death(worker: Worker, block: list[Item], error: Exception) -> BlockDone:
    (item,) = block
    name = item.parts[0].name if item.parts[0] else item.id
    text = f"{name}: its worker died {_RETRIES + 1} times, perhaps out of memory"
    logger.debug("%s", error)
    worker.results.write_block(block_key(block, worker.shard), [Record(item.id, "failed", {"error": text})], [{}], {})
    return BlockDone(1, [text], "", {})
