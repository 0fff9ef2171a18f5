"""The list of work, on disk: any number of names, matched by the rule of ``io.matching``, in bounded memory."""

from __future__ import annotations

import hashlib
import sqlite3
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from openseg.errors import DataError
from openseg.io.matching import sample_key
from openseg.io.sources import Found

__all__ = ["Index", "Item", "shard_of"]

_SOME = 10_000


class Item(NamedTuple):
    """One input: its name without suffix, and what its parts are called and found by, in the order of the roles."""

    id: str
    parts: tuple[Found | None, ...]


def shard_of(name: str, count: int) -> int:
    """The shard of a name, which depends on nothing else."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count


def _share_of(name: str, count: int) -> int:
    """Which of several processes does a name of a shard."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[8:16], "big") % count


class Index:
    """Names of inputs in a temporary SQLite file; a context that removes it."""

    def __init__(self, roles: Sequence[str], by_position: bool = False) -> None:
        """``by_position``: items come in the order in which the first role was listed, instead of that of names."""
        self.roles, self._order = tuple(roles), "rowid" if by_position else "id"
        self._folder = tempfile.TemporaryDirectory(prefix="openseg-")
        self._base = sqlite3.connect(Path(self._folder.name) / "index.sqlite", isolation_level=None)
        for setting in ("journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-131072"):
            self._base.execute(f"PRAGMA {setting}")
        self._base.create_function("key_of", 1, _key_of, deterministic=True)
        self._base.create_function("has_dot", 1, lambda name: "." in name.rpartition("/")[2], deterministic=True)
        for number in range(len(roles)):
            self._base.execute(f"CREATE TABLE role{number} (id TEXT, name TEXT, ref TEXT)")
        self._base.execute("CREATE TABLE done (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._base.execute("CREATE TABLE wanted (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._with_list = False

    def __enter__(self) -> Index:
        return self

    def __exit__(self, *_: object) -> None:
        self._base.close()
        self._folder.cleanup()

    def add(self, role: int, found: Iterable[Found]) -> int:
        """Add the inputs of a role, as they are listed; returns their number.

        Raises:
            DataError: two have one name, suffixes aside, or a name could leave the folder of results.
        """
        self._base.execute("BEGIN")
        suffix = "_pred" if self.roles[role] == "prediction" else ""
        rows = (
            (_id_of(each.name).removesuffix(suffix), each.name, None if each.ref == each.name else each.ref)
            for each in found
        )
        self._base.executemany(f"INSERT INTO role{role} VALUES (?, ?, ?)", rows)
        self._base.execute("COMMIT")
        try:
            self._base.execute(f"CREATE UNIQUE INDEX by_id{role} ON role{role} (id)")
        except sqlite3.IntegrityError:
            twice = f"SELECT id, min(name), max(name) FROM role{role} GROUP BY id HAVING count(*) > 1 LIMIT 1"
            _, one, other = self._base.execute(twice).fetchone()
            what = f"{one} and {other} have the same name" if one != other else f"{one}: is there twice"
            raise DataError(f"{what}; keep one") from None
        return self.size(role)

    def want(self, names: Iterable[str]) -> list[str]:
        """Leave out all but these names; returns the first ones that are not there."""
        self._with_list = True
        self._insert("wanted", (_id_of(name) for name in names))
        missing = "SELECT wanted.id FROM wanted LEFT JOIN role0 ON role0.id = wanted.id WHERE role0.id IS NULL LIMIT 20"
        return [name for (name,) in self._base.execute(missing)]

    def mark_done(self, names: Iterable[str]) -> None:
        """Leave out the inputs of these ids."""
        self._insert("done", names)

    def _insert(self, table: str, names: Iterable[str]) -> None:
        self._base.execute("BEGIN")
        self._base.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?)", ((name,) for name in names))
        self._base.execute("COMMIT")

    def items(self, shard: tuple[int, int] = (0, 1), share: tuple[int, int] = (0, 1)) -> Iterator[Item]:
        """What is to do of a shard, or of one process's share of it, in the order of names.

        A part without a match is None.
        """
        joined = " ".join(f"LEFT JOIN role{n} ON role{n}.id = role0.id" for n in range(1, len(self.roles)))
        columns = ", ".join(f"role{n}.name, role{n}.ref" for n in range(len(self.roles)))
        chosen = f"SELECT role0.id, {columns} FROM role0 {joined} WHERE {self._condition} ORDER BY role0.{self._order}"
        for name, *cells in self._base.execute(chosen):
            if shard[1] > 1 and shard_of(name, shard[1]) != shard[0]:
                continue
            if share[1] > 1 and _share_of(name, share[1]) != share[0]:
                continue
            pairs = zip(cells[::2], cells[1::2], strict=True)
            parts = [
                self._by_key(role, name) if found is None else Found(found, found if ref is None else ref)
                for role, (found, ref) in enumerate(pairs)
            ]
            yield Item(name, tuple(parts))

    def remaining(self, shard: tuple[int, int] = (0, 1)) -> int:
        """How many inputs of a shard are to do."""
        if shard[1] == 1:
            return int(self._base.execute(f"SELECT count(*) FROM role0 WHERE {self._condition}").fetchone()[0])
        names = self._base.execute(f"SELECT id FROM role0 WHERE {self._condition}")
        return sum(shard_of(name, shard[1]) == shard[0] for (name,) in names)

    def keep_ending(self, role: int, ending: str, required: bool = False) -> None:
        """Leave out the inputs of a role whose names do not end in ``ending``, if any does, or in any case."""
        any_of = f"SELECT 1 FROM role{role} WHERE id LIKE ? ESCAPE '!' LIMIT 1"
        like = "%" + ending.replace("_", "!_")
        if required or self._base.execute(any_of, (like,)).fetchone():
            self._base.execute(f"DELETE FROM role{role} WHERE id NOT LIKE ? ESCAPE '!'", (like,))

    def has(self, name: str) -> bool:
        """Whether an id is one of the inputs."""
        listed = " AND id IN (SELECT id FROM wanted)" if self._with_list else ""
        return self._base.execute(f"SELECT 1 FROM role0 WHERE id = ?{listed}", (name,)).fetchone() is not None

    def with_dot(self) -> str:
        """A name with a dot in its last part, or an empty text."""
        found = self._base.execute("SELECT id FROM role0 WHERE has_dot(id) LIMIT 1")
        row = found.fetchone()
        return row[0] if row else ""

    def size(self, role: int) -> int:
        """How many inputs a role has."""
        return int(self._base.execute(f"SELECT count(*) FROM role{role}").fetchone()[0])

    @property
    def _condition(self) -> str:
        listed = " AND role0.id IN (SELECT id FROM wanted)" if self._with_list else ""
        return f"NOT EXISTS (SELECT 1 FROM done WHERE done.id = role0.id){listed}"

    def count(self, shard: tuple[int, int] = (0, 1)) -> tuple[int, int, str]:
        """How many inputs there are in all, how many in a shard, and a fingerprint of all names."""
        digest, total, mine = hashlib.sha256(), 0, 0
        listed = " WHERE id IN (SELECT id FROM wanted)" if self._with_list else ""
        for (name,) in self._base.execute(f"SELECT id FROM role0{listed} ORDER BY id"):
            digest.update(name.encode() + b"\0")
            total += 1
            mine += shard[1] == 1 or shard_of(name, shard[1]) == shard[0]
        return total, mine, digest.hexdigest()

    def unmatched(self, role: int) -> tuple[int, str]:
        """How many inputs of another role belong to none of the first, and an example."""
        alone = f"FROM role{role} LEFT JOIN role0 ON role0.id = role{role}.id WHERE role0.id IS NULL"
        found = self._base.execute(f"SELECT count(*), min(role{role}.name) {alone}").fetchone()
        if found[0]:  # some may be matched by their keys
            self._index_keys(0)
            alone += (
                f" AND NOT EXISTS (SELECT 1 FROM role0 AS other WHERE key_of(other.id) = key_of(role{role}.id) AND "
                f"NOT EXISTS (SELECT 1 FROM role{role} AS same WHERE same.id = other.id))"
            )
            found = self._base.execute(f"SELECT count(*), min(role{role}.name) {alone}").fetchone()
        return int(found[0]), found[1] or ""

    def _by_key(self, role: int, name: str) -> Found | None:
        """The only input of ``role`` with the key of ``name``, which no other name has."""
        self._index_keys(0)
        self._index_keys(role)
        key = _key_of(name)
        same = "SELECT name, ref FROM role{} WHERE key_of(id) = ? LIMIT 2"
        if len(self._base.execute(same.format(0), (key,)).fetchall()) > 1:
            return None
        found = self._base.execute(same.format(role), (key,)).fetchall()
        if len(found) != 1:
            return None
        ((name, ref),) = found
        return Found(name, name if ref is None else ref)

    def _index_keys(self, role: int) -> None:
        """Made when the first name has no match: most sources never need it."""
        self._base.execute(f"CREATE INDEX IF NOT EXISTS by_key{role} ON role{role} (key_of(id))")


def _id_of(name: str) -> str:
    """The name without suffix, checked, in the form of Unicode that all systems share."""
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    path = PurePosixPath(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{name!r}: no valid Unicode; rename it") from None
    if not path.name or path.is_absolute() or ".." in path.parts or "\0" in name or "\n" in name:
        raise DataError(f"{name!r}: cannot be the name of a result; rename it")
    known = path.suffix.lower() in _SUFFIXES
    return path.with_suffix("").as_posix() if known else path.as_posix()


def _key_of(name: str) -> str:
    return sample_key(f"{name}.png")


_SUFFIXES = frozenset(
    (".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".jp2", ".ppm", ".pgm", ".mat")
)


def blocks_of(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, ``size`` at a time."""
    block: list[Item] = []
    for item in items:
        block.append(item)
        if len(block) == size:
            yield block
            block = []
    if block:
        yield block
