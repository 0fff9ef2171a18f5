"""``openseg.describe_labels``: content of label files; needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from openseg.datasets.info import DatasetInfo
from openseg.datasets.registry import get_dataset_info
from openseg.io.images import color_mode, read_color_label, read_label, read_palette
from openseg.labels import IGNORE_INDEX, UNKNOWN
from openseg.tools.paths import PathLike

__all__ = ["describe_labels"]


def describe_labels(files: Sequence[PathLike], *, dataset: str | None = None) -> list[dict[str, Any]]:
    """What label files hold: their size, kind, and each value with its share, color and name.

    Args:
        files: label map files.
        dataset: built-in dataset name, or YAML file of your own dataset; gives the class names.

    Returns:
        Plain values for each file; ``unknown`` lists values that are none of the dataset's.

    Raises:
        DataError: a file cannot be read.
    """
    info = get_dataset_info(dataset) if dataset else None
    return [_label_file(Path(path), info) for path in files]


def _label_file(path: Path, info: DatasetInfo | None) -> dict[str, Any]:
    mode = color_mode(path)
    colors = mode in ("RGB", "RGBA") or (mode == "P" and info is not None and bool(info.label_colors))
    pixels = read_color_label(path) if colors else read_label(path)
    palette = read_palette(path) if mode == "P" and not colors else None
    values = _values(pixels, palette, info)
    return {
        "file": str(path),
        "size": list(pixels.shape[:2]),
        "kind": "colors" if colors else f"{pixels.dtype.name} ids{', with a palette' if palette else ''}",
        "values": values,
        "unknown": [each["value"] for each in values if each.get("name") == "(unknown)"],
    }


def _values(pixels: np.ndarray, palette: bytes | None, info: DatasetInfo | None) -> list[dict[str, Any]]:
    """Each value with its share, color and name."""
    by_color = pixels.ndim == 3
    found, counts = np.unique(
        pixels.reshape(-1, 3) if by_color else pixels, axis=0 if by_color else None, return_counts=True
    )
    readable = info is not None and (not by_color or bool(info.label_colors))
    rows = []
    for value, count in zip(found, counts, strict=True):
        row: dict[str, Any] = {"value": value.tolist(), "share": count / counts.sum()}
        if palette is not None and 3 * int(value) + 3 <= len(palette):
            row["color"] = list(palette[3 * int(value) : 3 * int(value) + 3])
        if info is not None and not readable:
            row["name"] = "(unknown)"  # colors, where the dataset has ids
        elif info is not None:
            train_id = int(info.encode_known(value.reshape(1, 1, 3) if by_color else value.reshape(1, 1))[0, 0])
            special = {IGNORE_INDEX: "(ignored)", UNKNOWN: "(unknown)"}
            row["name"] = special.get(train_id) or info.classes[train_id]
        rows.append(row)
    return rows
