"""Folders of results: who wrote them, what can be kept, what is replaced."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from openseg.errors import DataError
from openseg.io.files import is_older, list_files, write_json

__all__ = ["RECORD", "OnConflict", "ResultFolder", "list_given"]

logger = logging.getLogger("openseg")

RECORD = "made_by.json"
"""What decided the files of a ``ResultFolder``."""
OnConflict = Literal["replace", "refuse", "overwrite"]
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?$")  # of atomic_write


class ResultFolder:
    """The place of the results of one command, which a later call with the same settings completes.

    ``made_by`` is whatever decides the results (settings, a checkpoint's hash); it stands in ``made_by.json`` in the
    folder. Files that an interrupted call with the same one left are kept. What a killed call had not finished is
    removed.

    Attributes:
        kept: existing results that are skipped, by kind, relative to the kind's folder.
        was_ours: whether an earlier call made this folder.
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
            on_conflict: what becomes of files that another ``made_by`` made: ``replace`` removes them first, so that
                the two never mix; ``refuse`` raises. ``overwrite`` removes those of the same one too.

        Raises:
            DataError: the folder holds files with one of ``suffixes`` that no such call wrote, or one with another
                ``made_by`` that is to be refused.
        """
        self.folder = Path(folder)
        record = self.folder / RECORD
        self.was_ours = record.exists()
        made_by = json.loads(json.dumps(made_by))
        existing, unfinished = _made_files(self.folder, suffixes, kinds)
        before = _read_json(record) if self.was_ours else None
        other = isinstance(before, dict) and before.get("what") != made_by.get("what")
        if other or (any(existing.values()) and not self.was_ours):
            raise DataError(
                f"{folder}: holds files that this command did not write; choose another folder or move them away"
            )
        if any(existing.values()) and before != made_by and on_conflict == "refuse":
            raise DataError(
                f"{folder}: holds results of other inputs, settings or weights; choose another folder, or --overwrite"
            )
        for path in unfinished:
            path.unlink(missing_ok=True)
        if before != made_by or on_conflict == "overwrite":
            if any(existing.values()):
                logger.info("%s: existing results are replaced", folder)
            for kind, names in existing.items():
                for name in names:
                    (self.folder / kind / name).unlink()
            existing = {kind: set() for kind in kinds}
        write_json(record, made_by)
        self.kept = existing

    def is_done(self, path: Path, *sources: Path, kind: str = "") -> bool:
        """Whether ``path`` is kept and no older than what it is made of."""
        name = path.relative_to(self.folder / kind).as_posix()
        return name in self.kept[kind] and not any(is_older(path, source) for source in sources)

    @staticmethod
    def tell_kept(kept: int, total: int) -> None:
        """Log how many results exist already."""
        if kept:
            logger.info("%d of %d already exist and are skipped; --overwrite makes them again", kept, total)


def list_given(folder: str | os.PathLike[str], suffixes: tuple[str, ...]) -> list[Path]:
    """As ``list_files``, without what a ``ResultFolder`` below holds, such as refined labels.

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

    given = [path for path in list_files(folder, suffixes) if not is_made(path.parent)]
    if not given:
        raise DataError(f"{folder}: holds nothing besides what this program made of it")
    return given


def _made_files(
    folder: Path, suffixes: tuple[str, ...], kinds: Sequence[str]
) -> tuple[dict[str, set[str]], list[Path]]:
    """Finished files by kind, relative to its folder, and those that a killed ``atomic_write`` left."""
    existing: dict[str, set[str]] = {kind: set() for kind in kinds}
    unfinished = []
    for kind in {"", *kinds}:
        base = folder / kind
        for path in base.rglob("*") if kind else base.glob("*"):
            if path.name.startswith("."):
                if _UNFINISHED.search(path.name) and path.is_file():
                    unfinished.append(path)
            elif kind in existing and path.suffix.lower() in suffixes:
                existing[kind].add(path.relative_to(base).as_posix())
    return existing, unfinished


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        return None
