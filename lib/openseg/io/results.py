"""Result folders: which command wrote them, which results are reused, which are replaced."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from openseg.errors import DataError
from openseg.io.files import before_replace, list_files, write_json

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

__all__ = ["RECORD", "Journal", "OnConflict", "ResultFolder", "exclusive_folder", "is_result", "list_given"]

logger = logging.getLogger("openseg")

RECORD = "made_by.json"
"""What decided the files of a ``ResultFolder``."""
OnConflict = Literal["replace", "refuse", "overwrite"]
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?$")  # of atomic_write


class Journal:
    """Journal of a ``ResultFolder``: size and time of each written file and of its sources, one line per file.

    Any process and thread may append. A line is written before its file is in place, so that every written file has a
    line after a crash at any moment.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / ".written.jsonl"

    @contextlib.contextmanager
    def writing(self, *sources: Path) -> Iterator[None]:
        """Context that records files written by this thread, with their ``sources``."""
        stamps = [_stamp(each) for each in sources]

        def note(path: Path, temporary: Path) -> None:
            name = path.relative_to(self.folder).as_posix()
            line = json.dumps([name, _stamp(temporary), stamps]) + "\n"
            place = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(place, line.encode())  # at once: lines of others stay whole
            finally:
                os.close(place)

        with before_replace(note):
            yield

    def read(self) -> dict[str, list[tuple[Any, Any]]]:
        """Return (stamp, stamps of the sources) by name, the newest last; incomplete lines are skipped."""
        found: dict[str, list[tuple[Any, Any]]] = {}
        if self.path.is_file():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                with contextlib.suppress(ValueError):
                    name, stamp, sources = json.loads(line)
                    found.setdefault(name, []).append((stamp, sources))
        return found

    def entry(self, path: Path, written: Mapping[str, list[tuple[Any, Any]]]) -> tuple[Any, Any] | None:
        """What was ``written``, as ``read`` has it, of a file as it is; None if it is not ours, or changed since."""
        entries = written.get(path.relative_to(self.folder).as_posix(), ())
        stamp = _stamp(path) if entries and path.is_file() else None
        return next((each for each in reversed(entries) if each[0] == stamp), None)


class ResultFolder:
    """Output folder of one command, which a later call with the same settings completes.

    ``made_by`` holds everything that determines the results (settings, the checkpoint's hash) and is stored in the
    folder's ``made_by.json``; written files are listed in a ``Journal``. Files of an interrupted call with the same
    ``made_by`` are kept. Only unchanged files of the journal are removed or replaced, and only after ``start``, which
    follows ``is_done`` of all files. Until the end of a ``with`` block, no other process can claim the folder.

    Attributes:
        kept: existing results that are skipped, by kind, relative to the kind's folder.
        was_ours: whether an earlier call created this folder.
        journal: list of written files.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        made_by: dict[str, Any],
        suffixes: tuple[str, ...],
        kinds: Sequence[str] = ("",),
        on_conflict: OnConflict = "replace",
    ) -> None:
        """
        Args:
            made_by: ``what`` in it names what is made, such as offsets; a folder of something else is never touched.
            suffixes: of result files.
            kinds: folders inside it that hold the files; an empty one is the folder itself, ``.`` also what is below.
            on_conflict: handling of files of another ``made_by``: ``replace`` removes them first, so that the two never
                mix; ``refuse`` raises. ``overwrite`` also removes those of the same ``made_by``.

        Raises:
            DataError: the folder holds files with one of ``suffixes`` but no such call made it, one with another
                ``made_by`` is to be refused, or another process is writing there.
        """
        self.folder = Path(folder)
        self._lock = _locked(self.folder)
        try:
            self._claim(made_by, suffixes, kinds, on_conflict)
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> ResultFolder:
        return self

    def __exit__(self, *_: object) -> None:
        """Release the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _claim(
        self, made_by: dict[str, Any], suffixes: tuple[str, ...], kinds: Sequence[str], on_conflict: OnConflict
    ) -> None:
        folder = self.folder
        before = _read_json(self.folder / RECORD)
        self.was_ours = isinstance(before, dict)
        made_by = json.loads(json.dumps(made_by))
        self.journal = Journal(self.folder)
        self._written = self.journal.read() if self.was_ours else {}
        existing, unfinished = _made_files(self.folder, suffixes, kinds)
        other = self.was_ours and before.get("what") != made_by.get("what")
        if other or (any(existing.values()) and not self.was_ours):
            raise DataError(
                f"{folder}: holds files that this command did not write; choose another folder or move them away"
            )
        ours = {kind: {n for n in names if self._entry(self.folder / kind / n)} for kind, names in existing.items()}
        self._foreign = {kind: existing[kind] - ours[kind] for kind in existing}
        if any(ours.values()) and before != made_by and on_conflict == "refuse":
            raise DataError(
                f"{folder}: holds results of other inputs, settings or weights; choose another folder, or --overwrite"
            )
        replaced = before != made_by or on_conflict == "overwrite"
        self._replaced = [self.folder / kind / name for kind in ours for name in ours[kind]] if replaced else []
        self._unfinished, self._made_by = unfinished, made_by
        self.kept = {kind: set() for kind in kinds} if replaced else ours

    def start(self) -> None:
        """Remove replaced files and start the journal; nothing is changed before."""
        if self._replaced:
            logger.info("%s: existing results are replaced", self.folder)
        for path in (*self._replaced, *self._unfinished):
            path.unlink(missing_ok=True)
        write_json(self.folder / RECORD, self._made_by)

    def is_done(self, path: Path, *sources: Path, kind: str = "") -> bool:
        """Whether ``path`` exists and is up to date with ``sources``.

        Raises:
            DataError: another file exists there.
        """
        name = path.relative_to(self.folder / kind).as_posix()
        if name in self._foreign[kind]:
            raise DataError(
                f"{path}: not written by this command, or changed since; move it away, or use another folder"
            )
        entry = self._entry(path) if name in self.kept[kind] else None
        return entry is not None and entry[1] == [_stamp(source) for source in sources]

    def remove(self, path: Path) -> None:
        """Remove a file of the journal, if unchanged."""
        if self._entry(path):
            path.unlink(missing_ok=True)

    def _entry(self, path: Path) -> tuple[Any, Any] | None:
        return self.journal.entry(path, self._written)

    @staticmethod
    def tell_kept(kept: int, total: int) -> None:
        """Log the number of existing results."""
        if kept:
            logger.info("%d of %d already exist and are skipped; --overwrite replaces them", kept, total)


def _stamp(path: Path) -> list[int]:
    """Size and time of a file, to detect changes."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _locked(folder: Path) -> int | None:
    """Open and lock the folder until it is closed or the process ends; None on file systems without locks.

    Raises:
        DataError: another process holds it.
    """
    if fcntl is None:
        return None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        place = os.open(folder, os.O_RDONLY)
    except OSError:  # which the first write explains
        return None
    try:
        fcntl.flock(place, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(place)
        raise DataError(f"{folder}: another command is writing there; wait for it, or choose another folder") from None
    except OSError:  # no locks on this file system
        os.close(place)
        return None
    return place


@contextlib.contextmanager
def exclusive_folder(folder: Path) -> Iterator[None]:
    """Context in which only this process writes below ``folder``; leftovers of killed processes are removed first.

    Raises:
        DataError: another process is writing there.
    """
    place = _locked(folder)
    try:
        if place is not None:
            for path in folder.rglob(".*"):
                if _UNFINISHED.search(path.name) and path.is_file():
                    path.unlink(missing_ok=True)
        yield
    finally:
        if place is not None:
            os.close(place)


def is_result(path: Path) -> bool:
    """Whether a file may be a score file of a command: a JSON object, a table, or empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    if path.suffix.lower() != ".json" or not text.strip():
        return True
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def list_given(folder: str | os.PathLike[str], suffixes: tuple[str, ...], also: tuple[str, ...] = ()) -> list[Path]:
    """List files like ``list_files``, without those of a ``ResultFolder`` below, such as refined labels.

    Raises:
        DataError: nothing else is there.
    """
    folder = Path(folder)
    made = {folder: False}

    def is_made(place: Path) -> bool:
        if place not in made:
            results = place.with_name(place.name.removesuffix("_figures"))
            made[place] = (results / RECORD).is_file() or is_made(place.parent)
        return made[place]

    return list_files(folder, suffixes, also, is_made)


def _made_files(
    folder: Path, suffixes: tuple[str, ...], kinds: Sequence[str]
) -> tuple[dict[str, set[str]], list[Path]]:
    """Return finished files by kind, relative to its folder, and leftovers of a killed ``atomic_write``."""
    existing: dict[str, set[str]] = {kind: set() for kind in kinds}
    unfinished = []
    for kind in {"", *kinds}:
        base = folder / kind
        for path in base.rglob("*") if kind else base.glob("*"):
            if path.name.startswith("."):
                if _UNFINISHED.search(path.name) and path.is_file():
                    unfinished.append(path)
            elif kind in existing and path.suffix.lower() in suffixes and _has_content(path):
                existing[kind].add(path.relative_to(base).as_posix())
    return existing, unfinished


def _has_content(path: Path) -> bool:
    """Whether a file is not empty; a power loss may leave an empty one."""
    return path.is_file() and path.stat().st_size > 0


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
