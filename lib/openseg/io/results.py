"""Folders of made files: who made them, what can be kept, what is replaced."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from openseg.errors import DataError
from openseg.io.files import list_files, write_json

__all__ = ["RECORD", "claim_folder", "list_given"]

logger = logging.getLogger("openseg")

RECORD = "made_by.json"
"""What decided the files of a folder that ``claim_folder`` made."""
_UNFINISHED = re.compile(r"\.[0-9a-f]{8}\.part(\.\w+)?$")  # of atomic_write


def list_given(folder: str | os.PathLike, suffixes: tuple[str, ...]) -> list[Path]:
    """As ``list_files``, without what ``claim_folder`` made in folders below, such as refined labels.

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


def claim_folder(
    folder: str | os.PathLike,
    made_by: dict[str, Any],
    suffixes: tuple[str, ...],
    kinds: Sequence[str] = ("",),
    others: Literal["replace", "refuse", "overwrite"] = "replace",
) -> dict[str, set[str]]:
    """Make ``folder`` the place of what ``made_by`` makes; returns its files that can be kept, by kind.

    ``made_by`` is whatever decides the result (settings, a checkpoint's hash); it stands in ``made_by.json`` in the
    folder. Files that an interrupted call with the same one left are kept. What a killed call had not finished is
    removed.

    Args:
        made_by: ``what`` in it names what is made, such as offsets; a folder of something else is never touched.
        kinds: folders inside it that hold the files; an empty one is the folder itself.
        others: what becomes of files that another ``made_by`` made: ``replace`` removes them first, so that the two
            never mix; ``refuse`` raises. ``overwrite`` removes those of the same one too.

    Raises:
        DataError: the folder holds files with one of ``suffixes`` that no such call wrote, or one with another
            ``made_by`` that is to be refused.
    """
    folder = Path(folder)
    record = folder / RECORD
    made_by = json.loads(json.dumps(made_by))
    existing, unfinished = _made_files(folder, suffixes, kinds)
    before = _read_json(record) if record.exists() else None
    other = isinstance(before, dict) and before.get("what") != made_by.get("what")
    if other or (any(existing.values()) and not record.exists()):
        raise DataError(
            f"{folder}: holds files that this command did not write; choose another folder or move them away"
        )
    if any(existing.values()) and before != made_by and others == "refuse":
        raise DataError(
            f"{folder}: holds results of other inputs, settings or weights; choose another folder, or --overwrite"
        )
    for path in unfinished:
        path.unlink(missing_ok=True)
    if before != made_by or others == "overwrite":
        if any(existing.values()):
            logger.info("%s: what is there is replaced", folder)
        for kind, names in existing.items():
            for name in names:
                (folder / kind / name).unlink()
        existing = {kind: set() for kind in kinds}
    write_json(record, made_by)
    return existing


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
