"""Registries that user code can extend: backbones, heads, losses, metrics, transforms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from openseg.errors import ConfigError, nearest_names

__all__ = ["Registry", "call_builder", "parameters_of"]

T = TypeVar("T")
Builder = TypeVar("Builder", bound=Callable[..., Any])


class Registry(dict[str, T]):
    """Mapping from name to builder, with errors that list the known names."""

    def __init__(self, kind: str, reserved: Collection[str] = ()) -> None:
        """
        Args:
            kind: what the entries are called in messages, such as ``backbone``.
            reserved: names of built-in entries that are added when their modules are imported.
        """
        super().__init__()
        self.kind, self.reserved = kind, tuple(reserved)

    @property
    def names(self) -> list[str]:
        """All known names."""
        return [*dict.fromkeys([*self.reserved, *self])]

    def register(self, name: str, entry: Any = None) -> Any:
        """Add ``entry`` under ``name``; without ``entry``, return a decorator.

        Raises:
            ConfigError: the name belongs to something else.
        """
        if entry is None:
            return lambda decorated: self.register(name, decorated)
        known = self.get(name)
        if name in self.reserved or (known is not None and _source_of(known) != _source_of(entry)):
            raise ConfigError(f"a {self.kind} named '{name}' is registered already; choose another name")
        self[name] = entry
        return entry

    def look_up(self, name: str, key: str) -> T:
        """The entry called ``name``; ``key`` is the setting that names it.

        Raises:
            ConfigError: unknown name (the message lists the nearest ones).
        """
        if name not in self:
            raise ConfigError(
                f"{key}: unknown {self.kind} '{name}'; {nearest_names(name, self.names)}; one of your own is "
                "registered by a module that 'plugins' of the config names (docs/extending.md)"
            )
        return self[name]


def _source_of(entry: Any) -> tuple[Any, ...]:
    """Return the source location, equal for an object redefined by a reloaded module."""
    return getattr(entry, "__module__", None), getattr(entry, "__qualname__", repr(entry))


def parameters_of(builder: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """The named parameters of a class or function."""
    return inspect.signature(builder).parameters


def call_builder(builder: Callable[..., T], what: str, *arguments: Any, **options: Any) -> T:
    """Call ``builder(*arguments, **options)``; ``what`` names it in messages.

    Raises:
        ConfigError: an unknown or a missing option.
    """
    signature = inspect.signature(builder)
    try:
        signature.bind(*arguments, **options)
    except TypeError as error:
        known = [*signature.parameters][len(arguments) :]
        unknown = [name for name in options if name not in signature.parameters]
        hint = nearest_names(unknown[0], known) if unknown and known else f"its options: {', '.join(known) or 'none'}"
        raise ConfigError(f"{what}: {error}; {hint}") from None
    return builder(*arguments, **options)
