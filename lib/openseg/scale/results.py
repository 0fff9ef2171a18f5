"""What is kept: results as objects or shards, a record of every block that is done, and in the end one manifest.

A block's record is written after its results, under a name that its inputs decide. So a killed worker or driver loses
at most the blocks in progress, and doing one again gives the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from openseg.errors import ConfigError, DataError
from openseg.io.results import RECORD
from openseg.io.sources import require_pyarrow
from openseg.io.storage import Place, retried
from openseg.scale.index import Index, Item, shard_of

__all__ = ["Manifest", "Record", "Results", "block_key", "is_of"]

_PARTS = "parts"
_AT_ONCE = 200
_UNFINISHED = ".unfinished"
_LONG_AGO = 3600.0


class Record(NamedTuple):
    """The line of one input in the manifest; ``facts`` are a hash and numbers, or the error."""

    id: str
    status: str
    facts: dict[str, Any]

    @property
    def line(self) -> str:
        """As JSON, the same on every machine."""
        return json.dumps({"id": self.id, "status": self.status, **self.facts}, sort_keys=True, ensure_ascii=False)


def block_key(block: Sequence[Item], shard: tuple[int, int] = (0, 1)) -> str:
    """Name of a block, which its shard and its inputs decide."""
    digest = hashlib.sha256()
    for item in block:
        digest.update(item.id.encode() + b"\0")
    return f"{_prefix(shard)}{digest.hexdigest()[:20]}"


def _prefix(shard: tuple[int, int]) -> str:
    return f"{shard[0] + 1}-of-{shard[1]}-" if shard[1] > 1 else ""


@dataclass(frozen=True)
class Results:
    """Where results go, and how: ``files``, ``tar`` or ``parquet``. Without results, only records are written."""

    out: Place
    kinds: dict[str, str]
    format: str = "files"
    made_by: dict[str, Any] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """A hash of what determines the results; records of others are not ours."""
        return hashlib.sha256(json.dumps(self.made_by, sort_keys=True).encode()).hexdigest()[:16]

    def claim(self, overwrite: bool, shard: tuple[int, int] = (0, 1)) -> None:
        """Take the folder, or take it up again; ``overwrite`` forgets what is recorded of this shard.

        Raises:
            ConfigError: nothing can be written at such an address.
            DataError: it holds results of something else.
        """
        if not self.out.takes_results:
            raise ConfigError(f"{self.out}: such storage takes no results; write to a folder or an object store")
        before = self._recorded()
        if before is None and self._has_other_files():
            before = self._recorded()  # another shard may have begun meanwhile
            if before is None:
                raise DataError(f"{self.out}: is not empty; choose a new folder for the results")
        if before is not None and before.get("what") != self.made_by["what"]:
            raise DataError(f"{self.out}: holds files that this command did not write; choose another folder")
        if before is not None and before != self.made_by and not overwrite:
            raise DataError(
                f"{self.out}: holds results of other settings or weights; choose another folder, or --overwrite"
            )
        if overwrite:
            for name, part in self._all_parts():
                if part.get("identity") != self.identity or is_of(part, shard):
                    self._forget(name)
        (self.out / RECORD).write(json.dumps(self.made_by, indent=1).encode())

    def _recorded(self) -> dict[str, Any] | None:
        record = self.out / RECORD
        if not record.exists():
            return None
        try:
            found = json.loads(record.read())
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}

    def _has_other_files(self) -> bool:
        if not self.out.exists():
            return False
        storage, path = self.out.storage
        names = retried(lambda: storage.ls(path, detail=False), self.out.address)
        return any(not Path(name).name.startswith(".") for name in names)

    def settle(self, index: Index, shard: tuple[int, int]) -> Iterator[str]:
        """Yield what a shard has done; forget blocks with inputs that are gone, and shards of blocks without record.

        Such a block is done again from the inputs that are left, so that no result, count or line stays of the others.
        """
        recorded = set()
        for name, part in self._all_parts():
            if part.get("identity") != self.identity or not is_of(part, shard):
                continue
            if all(index.has(each) for each, _, _ in part["records"]):
                recorded.add(name)
                yield from (each for each, status, _ in part["records"] if status == "ok")
            else:
                self._forget(name)
        if self.kinds and self.format != "files":
            storage, path = self.out.storage
            for each in retried(lambda: storage.ls(path, detail=False), self.out.address):
                file = Path(each).name
                ours = file.startswith(_prefix(shard)) and ("-of-" not in file) == (shard[1] == 1)
                if ours and file.endswith(f".{self.format}") and f"{Path(file).stem}.json" not in recorded:
                    (self.out / file).remove()

    def _forget(self, name: str) -> None:
        (self.out / _PARTS / name).remove()
        for suffix in (".tar", ".parquet"):
            place = self.out / f"{Path(name).stem}{suffix}"
            if place.exists():
                place.remove()

    def _part_names(self) -> list[str]:
        folder = self.out / _PARTS
        storage, path = folder.storage
        storage.invalidate_cache()
        if not folder.exists():
            return []
        names = retried(lambda: storage.ls(path, detail=False), folder.address)
        return sorted(Path(name).name for name in names if name.endswith(".json"))

    def write(self, name: str, outputs: dict[str, bytes]) -> None:
        """Write the results of one input, where each is an object of its own."""
        if self.format == "files":
            for kind in reversed([*self.kinds]):  # the first one last: where it is, all are
                self._put(f"{kind}/{name}{self.kinds[kind]}".lstrip("/"), outputs[kind])

    def write_block(
        self, key: str, records: Sequence[Record], outputs: Sequence[dict[str, bytes]], more: dict[str, Any]
    ) -> None:
        """Write a block's results, where they are shards, and then its record."""
        done = [(record.id, each) for record, each in zip(records, outputs, strict=True) if record.status == "ok"]
        if self.kinds and self.format == "tar":
            self._put(f"{key}.tar", _tar(done, self.kinds))
        elif self.kinds and self.format == "parquet":
            self._put(f"{key}.parquet", _parquet(done, self.kinds))
        part = {"identity": self.identity, "records": [[*record] for record in records], **more}
        self._put(f"{_PARTS}/{key}.json", json.dumps(part, ensure_ascii=False).encode())

    def _put(self, name: str, content: bytes) -> None:
        (self.out / name).write(content, self._unfinished)

    @property
    def _unfinished(self) -> Path | None:
        """Where killed workers leave their temporary files: in one place, so that they are found again."""
        return Path(self.out.address) / _UNFINISHED if self.out.local else None

    def clean(self, everything: bool) -> None:
        """Remove what killed workers left: everything, or only what is so old that nobody still writes it."""
        folder = self._unfinished
        if folder is None or not folder.is_dir():
            return
        for path in folder.iterdir():
            with contextlib.suppress(OSError):
                if everything or time.time() - path.stat().st_mtime > _LONG_AGO:
                    path.unlink()
        if everything:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def parts(self) -> Iterator[dict[str, Any]]:
        """The blocks' records of the same settings, in the order of their names.

        Raises:
            DataError: one is damaged.
        """
        return (part for _, part in self._all_parts() if part.get("identity") == self.identity)

    def _all_parts(self) -> Iterator[tuple[str, dict[str, Any]]]:
        names = self._part_names()
        for first in range(0, len(names), _AT_ONCE):
            for name, content in self._read(names[first : first + _AT_ONCE]).items():
                try:
                    yield name, json.loads(content)
                except ValueError:
                    where = self.out / _PARTS / name
                    raise DataError(f"{where}: damaged; remove it, and its inputs are done again") from None

    def _read(self, names: Sequence[str]) -> dict[str, bytes]:
        """Their contents; what another process has removed meanwhile is left out."""
        places = {name: self.out / _PARTS / name for name in names}
        if self.out.local:
            paths = {name: Path(place.address) for name, place in places.items()}
            return {name: path.read_bytes() for name, path in paths.items() if path.exists()}
        storage, _ = self.out.storage
        keys = {place.storage[1]: name for name, place in places.items()}
        found = retried(lambda: storage.cat([*keys], on_error="omit"), self.out.address)
        found = found if isinstance(found, dict) else {next(iter(keys)): found}
        return {keys[path]: content for path, content in found.items()}


def is_of(part: dict[str, Any], shard: tuple[int, int]) -> bool:
    """Whether a block is of a shard: all of its inputs are of one."""
    return shard[1] == 1 or shard_of(part["records"][0][0], shard[1]) == shard[0]


def _tar(done: Sequence[tuple[str, dict[str, bytes]]], kinds: dict[str, str]) -> bytes:
    """A WebDataset shard: of each input its results one after another, named ``<id>.<kind><suffix>``."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, outputs in done:
            for kind, suffix in kinds.items():
                member = tarfile.TarInfo(f"{name}.{kind or 'label'}{suffix}")
                member.size, member.mode = len(outputs[kind]), 0o644
                archive.addfile(member, io.BytesIO(outputs[kind]))
    return content.getvalue()


def _parquet(done: Sequence[tuple[str, dict[str, bytes]]], kinds: dict[str, str]) -> bytes:
    parquet = require_pyarrow("parquet")
    import pyarrow

    columns: dict[str, Any] = {"id": pyarrow.array([name for name, _ in done], pyarrow.string())}
    for kind in kinds:
        columns[kind or "label"] = pyarrow.array([outputs[kind] for _, outputs in done], pyarrow.binary())
    content = io.BytesIO()
    parquet.write_table(pyarrow.table(columns), content, compression="none")  # PNGs are compressed
    return content.getvalue()


class Manifest:
    """All records, one for each input, sorted on disk; a context that removes its temporary file."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="openseg-")
        self._base = sqlite3.connect(Path(self._folder.name) / "records.sqlite", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            self._base.execute(f"PRAGMA {setting}")
        self._base.execute("CREATE TABLE record (id TEXT PRIMARY KEY, status TEXT, line TEXT) WITHOUT ROWID")

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._folder.cleanup()

    def add(self, records: Iterable[Sequence[Any]], shard: tuple[int, int] = (0, 1)) -> int:
        """Add records of a shard; one that succeeded replaces one that failed.

        Returns how many had succeeded before.
        """
        repeated = 0
        self._base.execute("BEGIN")
        for each in records:
            record = Record(*each)
            if shard[1] > 1 and shard_of(record.id, shard[1]) != shard[0]:
                continue
            found = self._base.execute("SELECT status, line FROM record WHERE id = ?", (record.id,)).fetchone()
            repeated += found is not None and found[0] == record.status == "ok"
            if found is None or (record.status != "ok", record.line) < (found[0] != "ok", found[1]):
                row = record.id, record.status, record.line
                self._base.execute("INSERT OR REPLACE INTO record VALUES (?, ?, ?)", row)
        self._base.execute("COMMIT")
        return repeated

    def lines(self) -> Iterator[str]:
        """The lines of the manifest, by id."""
        for (line,) in self._base.execute("SELECT line FROM record ORDER BY id"):
            yield f"{line}\n"

    def count(self, status: str) -> int:
        """How many have a status."""
        return int(self._base.execute("SELECT count(*) FROM record WHERE status = ?", (status,)).fetchone()[0])

    def failed(self, limit: int = 20) -> list[str]:
        """Errors of the first inputs that failed."""
        chosen = "SELECT line FROM record WHERE status = 'failed' ORDER BY id LIMIT ?"
        return [str(json.loads(line)["error"]) for (line,) in self._base.execute(chosen, (limit,))]
