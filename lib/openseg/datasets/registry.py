"""Built-in datasets by name, and users' dataset files."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from openseg.datasets.dataset_file import read_dataset_file
from openseg.datasets.info import DatasetInfo
from openseg.errors import ConfigError, nearest_names

__all__ = ["DATASET_NAMES", "get_dataset_info", "remember_dataset"]

_FOLDER = Path(__file__).parent / "definitions"
DATASET_NAMES = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))
_OWN: dict[Path, tuple[int | None, DatasetInfo]] = {}


def get_dataset_info(name: str, fresh: bool = True) -> DatasetInfo:
    """Return the metadata of the built-in dataset ``name``, or of the dataset file ``name`` (YAML).

    Args:
        fresh: read a file again if it changed; a config keeps what it began with.

    Raises:
        ConfigError: unknown name (the message lists the nearest ones), or an invalid file.
    """
    if name.endswith((".yaml", ".yml")):
        return _own_dataset(Path(name).absolute(), name, fresh)
    if name not in DATASET_NAMES:
        raise ConfigError(
            f"unknown dataset '{name}'; {nearest_names(name, DATASET_NAMES)}; your own is a YAML file, see "
            "docs/your-data.md"
        )
    return _read_builtin(name)


def _own_dataset(path: Path, name: str, fresh: bool) -> DatasetInfo:
    known = _OWN.get(path)
    if known is not None and (not fresh or (known[0] is None and not path.exists())):
        return known[1]
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"{name}: no such dataset file ({error.strerror}); see docs/your-data.md") from None
    if known is None or known[0] != stamp:
        _OWN[path] = stamp, read_dataset_file(path, _builtin_classes)
    return _OWN[path][1]


def remember_dataset(name: str, facts: dict[str, Any]) -> None:
    """Make the dataset file ``name`` known from what an exported network says of it, where there is no such file."""
    path = Path(name).absolute()
    if name not in DATASET_NAMES and not path.exists():
        _OWN[path] = None, TypeAdapter(DatasetInfo).validate_python(facts)


def _builtin_classes(name: str) -> DatasetInfo:
    """The dataset whose classes a file takes over.

    Raises:
        ConfigError: no such dataset.
    """
    if name not in DATASET_NAMES:
        raise ConfigError(f"classes: no dataset '{name}'; {nearest_names(name, DATASET_NAMES)}")
    return _read_builtin(name)


@functools.cache
def _read_builtin(name: str) -> DatasetInfo:
    return read_dataset_file(_FOLDER / f"{name}.yaml", _builtin_classes, own=False)
