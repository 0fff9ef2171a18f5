"""Adding up shards, with proof that none is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openseg.errors import DataError
from openseg.metrics import LabelScores
from openseg.scale.units import Evaluate

__all__ = ["COUNTS", "counts_of", "merged"]

COUNTS = "shard_counts"
"""Key of a score file under which what ``merged`` needs stands."""
_SAME = ("what", "name", "inputs", "names", "identity", "settings")
_ADDED = ("in_shard", "done", "failed", "missing", "skipped")


def counts_of(name: str, unit: Evaluate, summary: dict[str, Any], scores: LabelScores) -> dict[str, Any]:
    """What ``merged`` needs of one shard of predictions called ``name``, to be written into its score file."""
    settings = {"dataset": unit.dataset, **{name: value for name, value in unit.made_by.items() if name != "what"}}
    return {COUNTS: {**summary, "name": name, "settings": settings, "counts": scores.counts_dict()}}


def merged(files: Sequence[Path]) -> tuple[dict[str, Any], LabelScores | None]:
    """See ``openseg.scale.merge``."""
    shards: dict[int, tuple[Path, dict[str, Any]]] = {}
    count = 0
    for path in files:
        part = _read(path)
        number, count_here = (int(each) for each in part["shard"].split("/"))
        if shards:
            first, other = next(iter(shards.values()))
            _require_same(path, part, first, other)
        if number in shards:
            raise DataError(f"{path} and {shards[number][0]}: both are shard {part['shard']}")
        shards[number], count = (path, part), count_here
    missing = [number for number in range(1, count + 1) if number not in shards]
    if missing:
        more = f" and {len(missing) - 20} more" if len(missing) > 20 else ""
        raise DataError(f"shards are missing: {', '.join(f'{each}/{count}' for each in missing[:20])}{more}")
    parts = [part for _, (_, part) in sorted(shards.items())]
    total = {name: parts[0].get(name) for name in ("what", "name", "inputs", "names")}
    total |= {name: sum(part[name] for part in parts) for name in _ADDED}
    total["unmatched"] = parts[0].get("unmatched", {})  # each shard lists the whole source
    total["errors"] = [error for part in parts for error in part["errors"]]
    if total["in_shard"] != total["inputs"]:
        raise DataError(f"the shards hold {total['in_shard']} inputs, the source {total['inputs']}")
    return total, _added(shards)


def _added(shards: dict[int, tuple[Path, dict[str, Any]]]) -> LabelScores | None:
    _, first = next(iter(shards.values()))
    if "counts" not in first:
        return None
    settings = first["settings"]
    unit = Evaluate(
        settings["dataset"], tuple(settings["distances"]), settings["train_ids"], tuple(settings["metrics"])
    )
    if unit.made_by["classes"] != settings["classes"]:
        raise DataError(f"{settings['dataset']}: its classes are not those that the shards were scored with")
    scores = unit.empty()
    for path, part in shards.values():
        try:
            scores.add_counts(part["counts"])
        except DataError as error:
            raise DataError(f"{path}: {error}") from None
    return scores


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        part = content.get(COUNTS, content)
        number, count = (int(each) for each in part["shard"].split("/"))
        if not 1 <= number <= count or any(name not in part for name in (*_ADDED, "inputs", "names", "errors")):
            raise ValueError
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: is no summary.json of a shard, and no score file of one") from None
    return dict(part)


def _require_same(path: Path, part: dict[str, Any], first: Path, other: dict[str, Any]) -> None:
    if part["shard"].partition("/")[2] != other["shard"].partition("/")[2]:
        raise DataError(f"{path} is shard {part['shard']}, {first} shard {other['shard']}: of different numbers")
    for name in _SAME:
        if part.get(name) != other.get(name):
            what = (
                "the source was listed differently" if name in ("inputs", "names") else "of other settings or sources"
            )
            raise DataError(f"{path} and {first} do not belong together: {what}")
