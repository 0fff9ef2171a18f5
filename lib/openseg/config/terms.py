"""Entries of lists such as ``loss`` and ``augment.transforms``: a type, and the options that this type has."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar

from pydantic import ConfigDict, Field, ValidationError, create_model

from openseg.errors import ConfigError
from openseg.registry import Registry
from openseg.schema import Section, explain

__all__ = ["Term", "parse_terms", "section_of"]


class Term(Section):
    """One entry; ``type`` is the name under which something is registered."""

    type: str = Field(description="registered name")
    recipe: ClassVar[tuple[Any, ...] | None] = None
    """What ``section_of`` made this class of, if it did."""

    def __reduce__(self) -> Any:
        if self.recipe is None:
            return super().__reduce__()
        return _from_recipe, (self.recipe, self.model_dump())  # no module holds the class

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of what is registered."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in self.own_fields()}

    @classmethod
    def own_fields(cls) -> Collection[str]:
        """Keys that are no arguments of what is registered."""
        return ("type",)


def parse_terms(
    values: Any, registry: Registry[Any], base: type[Term], known: Mapping[str, type[Term]], provided: Collection[str]
) -> tuple[Term, ...]:
    """A tuple of terms from a list of mappings, or from a single one.

    Args:
        base: of sections that follow from the parameters of what is registered.
        known: the sections of types that have one of their own.
        provided: parameters that are no options.

    Raises:
        ValueError: an unknown type or key, or an invalid value.
    """
    entries = [values] if isinstance(values, (Mapping, str, Term)) else values
    if not isinstance(entries, (list, tuple)):
        raise ValueError("write a mapping with a type, or a list of them")
    return tuple(_parse(entry, registry, base, known, provided) for entry in entries)


def _parse(
    entry: Any, registry: Registry[Any], base: type[Term], known: Mapping[str, type[Term]], provided: Collection[str]
) -> Term:
    if isinstance(entry, Term):
        return entry
    if isinstance(entry, str):
        entry = {"type": entry}
    if not isinstance(entry, Mapping):
        raise ValueError(f"write a mapping with a type (got {entry!r})")
    entry = {"type": next(iter(known), None), **entry}
    name = entry["type"]
    if not isinstance(name, str):
        raise ValueError(f"every entry needs a type (got {name!r})")
    try:
        section = known.get(name) or section_of(registry.look_up(name, "type"), name, base, tuple(provided))
    except ConfigError as error:
        raise ValueError(str(error)) from None
    try:
        return section.model_validate(entry)
    except ValidationError as error:
        raise ValueError(explain(error, section)) from None


@functools.cache
def section_of(function: Callable[..., Any], name: str, base: type[Term], provided: tuple[str, ...]) -> type[Term]:
    """The section whose keys are the parameters of ``function`` that are not ``provided``."""
    hints = _hints(function)
    fields: dict[str, Any] = {}
    for key, parameter in inspect.signature(function).parameters.items():
        if key in provided or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        if key in base.own_fields():
            raise ConfigError(f"'{name}' has a parameter '{key}', which is a key of every entry; give it another name")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[key] = (hints.get(key, Any), default)
    section = create_model(f"{name}Options", __base__=base, **fields)
    section.recipe = (function, name, base, provided)
    section.model_config = ConfigDict(**{**base.model_config, "arbitrary_types_allowed": True})
    return section


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    """Types of parameters as far as they are known when the program runs; others may be anything."""
    if isinstance(function, functools.partial):
        return _hints(function.func)
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # imported for type checkers only, or an object that is called
        return {}


def _from_recipe(recipe: tuple[Any, ...], values: dict[str, Any]) -> Term:
    return section_of(*recipe).model_validate(values)
