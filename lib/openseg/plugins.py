"""User modules that register backbones, heads, losses, metrics or transforms."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from openseg.errors import ConfigError

__all__ = ["load_plugins", "loaded_plugins"]

_LOADED: dict[str, tuple[str, ...]] = {}


def load_plugins(names: Iterable[str], folders: Iterable[Path] = ()) -> None:
    """Import modules once, which registers their components.

    Args:
        names: as in an import statement, such as ``my_package.heads``.
        folders: additional folders to search, besides Python's path and the current folder.

    Raises:
        ConfigError: a module cannot be imported.
    """
    for name in names:
        if name in _LOADED:
            continue
        places = tuple(dict.fromkeys(str(folder.resolve()) for folder in (*folders, Path())))
        more = [place for place in places if place not in sys.path]
        sys.path.extend(more)
        try:
            importlib.import_module(name)
        except Exception as error:  # user code may raise any error
            raise ConfigError(f"plugins: {name} cannot be imported ({type(error).__name__}: {error})") from error
        finally:
            for folder in more:
                sys.path.remove(folder)
        _LOADED[name] = places


def loaded_plugins() -> list[tuple[str, tuple[str, ...]]]:
    """Names of the modules that were loaded and where they were looked for, for worker processes."""
    return list(_LOADED.items())
