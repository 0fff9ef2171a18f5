"""One run over a source: list, match, do what is left, then write the manifest and the summary."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.files import file_hash
from openseg.io.progress import is_hidden
from openseg.io.sources import Source
from openseg.io.storage import Place
from openseg.metrics import LabelScores
from openseg.scale.engines import Engine, make_engine
from openseg.scale.index import Index, blocks_of
from openseg.scale.results import Manifest, Results, is_of
from openseg.scale.settings import Scale
from openseg.scale.units import Unit
from openseg.scale.worker import Worker

__all__ = ["ScaleResult", "Task", "run"]

logger = logging.getLogger("openseg")

_MOST_PARTS = 20_000  # blocks grow with the source, so that their records stay few


@dataclass(frozen=True)
class ScaleResult:
    """What a run over a large source gave.

    Attributes:
        out: address of the results.
        manifest: address of the JSON lines with one record for each input, by name.
        summary: what is in ``summary.json``: counts, rate, seconds by stage, inputs by worker.
        left_out: errors of the first broken inputs; all are in the manifest.
        scores: of ``evaluate``.
        part: of ``evaluate`` of a shard: what its score file must hold for ``merge``.
    """

    out: str
    manifest: str
    summary: dict[str, Any]
    left_out: list[str] = field(default_factory=list)
    scores: LabelScores | None = None
    part: dict[str, Any] | None = None


@dataclass(frozen=True)
class Task:
    """A unit of work, its sources by role, and where results go.

    ``scores`` are empty ones, which take the counts of ``Evaluate``. ``endings``: of a role, what names end in if any
    does, such as ``_labelIds`` of Cityscapes; ``optional`` roles may lack an input.
    """

    unit: Unit
    sources: Sequence[Source]
    out: Place
    how: Scale
    workers: int
    overwrite: bool = False
    scores: LabelScores | None = None
    endings: dict[int, str] = field(default_factory=dict)
    optional: frozenset[int] = frozenset()

    @property
    def suffix(self) -> str:
        """What distinguishes the files of a shard."""
        number, count = self.how.part
        return f"-{number + 1:0{len(str(count))}d}-of-{count}" if count > 1 else ""


def run(task: Task) -> ScaleResult:
    """Do what is left of a task.

    Raises:
        ConfigError, DataError, OpensegError: nothing can be listed, results cannot be written, or ``max_errors``.
    """
    alone = any(place.in_this_process for place in (task.out, *(source.place for source in task.sources)))
    if alone and task.how.engine == "ray":
        raise ConfigError("memory:// is seen by one process only; use another storage with --engine ray")
    _require_outside(task)
    made_by = json.loads(json.dumps({**task.unit.made_by, **_asked(task)}))
    results = Results(task.out, task.unit.kinds, task.how.format, made_by)
    with _group(task.unit) as (rank, world, collect):
        if rank == 0:
            results.claim(task.overwrite, task.how.part)
        collect(None)
        worker = Worker(task.unit, task.sources, results, task.optional, shard=task.how.part)
        engine = make_engine(worker, task.how, task.workers, alone)
        with contextlib.ExitStack() as stack:
            beside = stack.enter_context(ThreadPoolExecutor(1))
            try:
                try:
                    by_position = task.sources[0].kind != "files"
                    index = stack.enter_context(Index([source.role for source in task.sources], by_position))
                    listed = _list(task, index)
                    if rank == 0:
                        index.mark_done(results.settle(index, task.how.part))
                    collect(None)
                    if rank:
                        index.mark_done(_succeeded(results))
                    spent = _added(collect(_work(task, index, engine, listed, (rank, world), made_by["what"])))
                finally:
                    stopped = beside.submit(engine.stop)  # Ray takes a second to end
                result = ScaleResult(task.out.address, "", {}) if rank else _finish(task, results, listed, spent)
            except sqlite3.Error as error:
                place = tempfile.gettempdir()
                raise OpensegError(f"the list of work in {place}: {error}; free some space, or set TMPDIR") from None
            stopped.result()
        return result


def _asked(task: Task) -> dict[str, Any]:
    """What decides the results besides the unit: other values of these never continue each other."""
    how = task.how
    listed = None if how.listed is None else file_hash(how.listed) if Path(how.listed).is_file() else str(how.listed)
    sources = [[source.role, source.place.address] for source in task.sources]
    shards = {"shards": how.part[1], "list": listed}
    return {"format": how.format, "sources": sources, "columns": how.named, **shards}


def _require_outside(task: Task) -> None:
    for source in task.sources:
        inside = f"{task.out.address}/".startswith(f"{source.place.address.rstrip('/')}/")
        if source.kind == "files" and inside and not task.out.local:
            raise ConfigError(f"{task.out}: lies in {source.place}, whose files are the input; choose another place")


def _added(spent: list[dict[str, Any]]) -> dict[str, Any]:
    """What all processes of torchrun did."""
    seconds, by_worker = Counter[str](), Counter[str]()
    for each in spent:
        seconds.update(each["seconds"])
        by_worker.update(each["by_worker"])
    wall = max(each["wall"] for each in spent)
    return {"seconds": dict(seconds), "by_worker": dict(by_worker), "wall": wall, "did": sum(by_worker.values())}


@contextlib.contextmanager
def _group(unit: Unit) -> Iterator[tuple[int, int, Any]]:
    """Rank, world and exchange of torchrun, for networks; other work has no need of it."""
    if not unit.uses_network:
        yield 0, 1, lambda value: [value]
        return
    from openseg.distributed import process_group

    with process_group() as group:
        yield group.rank, group.world, group.collect


@dataclass
class _Listed:
    total: int = 0
    mine: int = 0
    names: str = ""
    done: int = 0
    unmatched: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0


def _list(task: Task, index: Index) -> _Listed:
    begin = time.perf_counter()
    counts = [index.add(number, source) for number, source in enumerate(task.sources)]
    for number, ending in task.endings.items():
        index.keep_ending(number, ending, required=number in task.optional)
    for number in task.optional:
        some, all_ = index.size(number), index.size(0)
        if 0 < some < all_:
            raise DataError(f"{task.sources[number].place}: {all_ - some} of {all_} instance maps are missing")
    for count, source in zip(counts, task.sources, strict=True):
        if not count:
            raise DataError(f"{source.place}: no {source.role} in it")
    if task.how.listed is not None:
        missing = index.want(_lines(Path(task.how.listed)))
        if missing:
            raise DataError(f"{task.how.listed}: names what is not in {task.sources[0].place}, such as {missing[0]}")
    unmatched = {}
    for number in range(1, len(task.sources)):
        alone, example = index.unmatched(number)
        if alone and number not in task.optional:
            source = task.sources[number]
            unmatched[source.role] = alone
            logger.info("%s: %d belong to no %s, such as %s", source.place, alone, index.roles[0], example)
    total, mine, names = index.count(task.how.part)
    if task.how.format == "tar" and (dotted := index.with_dot()):
        raise DataError(
            f"{dotted}: names in WebDataset end at the first dot; rename it, or use --format parquet or files"
        )
    return _Listed(total, mine, names, unmatched=unmatched, seconds=time.perf_counter() - begin)


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8-sig") as file:
            for line in file:
                if line.strip():
                    yield line.strip()
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from None


def _succeeded(results: Results) -> Iterator[str]:
    for part in results.parts():
        yield from (name for name, status, _ in part["records"] if status == "ok")


def _work(
    task: Task, index: Index, engine: Engine, listed: _Listed, share: tuple[int, int], what: str
) -> dict[str, Any]:
    """Run the engine over what is left; returns seconds by stage and inputs by worker."""
    how = task.how
    left = index.remaining(how.part)
    listed.done = listed.mine - left
    if listed.done:
        logger.info("%d of %d are done and skipped; --overwrite does them again", listed.done, listed.mine)
    size = how.block or max(task.unit.block, left // _MOST_PARTS)
    # Workers shall end together: a block of many seconds at the end is waited for by all others.
    size = max(min(size, left // (4 * max(task.workers, 1))), 1) if how.block is None else size
    seconds, by_worker, errors = Counter[str](), Counter[str](), 0
    begin = time.perf_counter()
    blocks = blocks_of(index.items(how.part, share), size)
    hidden = True if is_hidden() or share[0] else None
    with tqdm(total=left, desc=what, disable=hidden, leave=False, dynamic_ncols=True) as bar:
        for done in engine.run(blocks):
            bar.update(done.inputs)
            seconds.update(done.seconds)
            by_worker[done.worker] += done.inputs
            errors += len(done.errors)
            bar.set_postfix({"failed": errors} if errors else {}, refresh=False)
            if how.max_errors is not None and errors > how.max_errors:
                raise OpensegError(
                    f"stopped after {errors} broken inputs, more than --max-errors {how.max_errors}; the last one: "
                    f"{done.errors[-1]}. What is recorded is kept"
                )
    wall = time.perf_counter() - begin
    return {"seconds": dict(seconds), "by_worker": dict(by_worker), "wall": wall}


def _finish(task: Task, results: Results, listed: _Listed, spent: dict[str, Any]) -> ScaleResult:
    """Write the manifest and the summary of all runs together."""
    scores, repeated = task.scores, 0
    manifest, summary = task.out / f"manifest{task.suffix}.jsonl", task.out / f"summary{task.suffix}.json"
    with Manifest() as rows:
        for part in results.parts():
            repeated += rows.add(part["records"], task.how.part)
            if scores is not None and "counts" in part and is_of(part, task.how.part):
                scores.add_counts(part["counts"])
        if repeated and (scores is not None or task.how.format != "files"):
            raise DataError(f"{task.out}: {repeated} inputs were done twice; run again with --overwrite")
        manifest.write_lines(rows.lines())
        done, failed, errors = rows.count("ok"), rows.count("failed"), rows.failed()
    results.clean(everything=task.how.shard is None)
    stages = spent["seconds"]
    found = {
        "what": results.made_by["what"],
        "identity": results.identity,
        "shard": task.how.shard or "1/1",
        "inputs": listed.total,
        "names": listed.names,
        "in_shard": listed.mine,
        "done": done,
        "failed": failed,
        "unmatched": listed.unmatched,
        "missing": listed.mine - done - failed,
        "skipped": listed.done,
        "listing_seconds": round(listed.seconds, 3),
        "seconds": round(spent["wall"], 3),
        "per_second": round(spent["did"] / spent["wall"], 3) if spent["wall"] else None,
        "stage_seconds": {name: round(value, 3) for name, value in stages.items()},
        "slowest_stage": max(stages, key=lambda name: stages[name]) if stages else None,
        "by_worker": spent["by_worker"],
        "errors": errors,
    }
    summary.write(json.dumps(found, indent=1, ensure_ascii=False).encode())
    return ScaleResult(task.out.address, manifest.address, found, errors, scores)
