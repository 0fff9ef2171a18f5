"""Typed YAML files: the base of their sections, and one-line explanations of what is wrong in them."""

from __future__ import annotations

import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from openseg.errors import ConfigError, nearest_names

__all__ = ["Section", "explain", "parse_yaml", "read_yaml"]


_SPECIAL = ("tag:yaml.org,2002:merge", "tag:yaml.org,2002:value")  # <<: *anchor, which may be there again


_FastLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is ten times as fast


_LONGEST_TEXT, _DEEPEST, _MOST_VALUES = 10_000_000, 60, 500_000
_LONGEST_SHOWN = 120


class _Loader(_FastLoader):  # type: ignore[misc]
    """YAML loader with an error for duplicate keys, of which the plain loader keeps the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag in _SPECIAL:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, (str, int, float)) and key in seen:
                raise yaml.YAMLError(f"key {key!r} is there twice, again in line {key_node.start_mark.line + 1}")
            if isinstance(key, (str, int, float)):
                seen.add(key)
        return super().construct_mapping(node, deep)


class Section(BaseModel):
    """A mapping whose keys are known; immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False)


def parse_yaml(text: str) -> Any:
    """Parse YAML with plain values, lists and mappings only, and with bounded size.

    Raises:
        ValueError: invalid YAML, a duplicate key, or a document beyond the limits.
    """
    try:
        _require_bounds(text)
        return yaml.load(text, _Loader)  # a SafeLoader
    except Exception as error:  # PyYAML raises whatever its conversions of odd scalars meet
        reason = " ".join(str(error).split())[:300]
        raise ValueError(reason or type(error).__name__) from None


def _require_bounds(text: str) -> None:
    """Raise ValueError for tags, deep nesting and alias expansion, before values are constructed."""
    if len(text) > _LONGEST_TEXT:
        raise ValueError(f"{len(text):,} characters; at most {_LONGEST_TEXT:,}")
    sizes: dict[str, int] = {}
    open_nodes: list[list[Any]] = [[None, 0]]  # anchor and size of each
    for event in yaml.parse(text, _FastLoader):
        if getattr(event, "tag", None) is not None:
            raise ValueError(f"tag {getattr(event, 'tag', '')}: write plain values")
        if isinstance(event, yaml.AliasEvent):
            open_nodes[-1][1] += sizes.get(event.anchor or "", 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, (yaml.ScalarEvent, yaml.CollectionEndEvent)):
            anchor, size = (event.anchor, 1) if isinstance(event, yaml.ScalarEvent) else open_nodes.pop()
            open_nodes[-1][1] += size
            if anchor:
                sizes[anchor] = size
        if len(open_nodes) > _DEEPEST or open_nodes[-1][1] > _MOST_VALUES:
            raise ValueError(f"nested deeper than {_DEEPEST}, or more than {_MOST_VALUES:,} values")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: missing, unreadable, or not a mapping; ``what`` names the expected file.
    """
    try:
        values = parse_yaml(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read {what} ({error.strerror})") from None
    except ValueError as error:  # not UTF-8 either
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {what} is a mapping of keys to values")
    return values


def explain(error: ValidationError, section: type[BaseModel]) -> str:
    """The most specific problem in one line, with the nearest names for an unknown key."""
    # Of the types that a value may have, the one that went furthest was meant; a wrong key may be a missing one.
    problem = max(error.errors(), key=lambda each: (len(each["loc"]), each["type"] == "extra_forbidden"))
    location = [str(part) for part in problem["loc"] if not re.search(r"\[|^[A-Z]\w*Entry$", str(part))]
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{key}'; {nearest_names(location[-1], _fields_at(location[:-1], section))}"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem.get("input")
    shown = ""
    if isinstance(given, (str, int, float, list, type(None))):
        text = _short(given)
        shown = f" (got {text})"
    return f"{key}: {message}{shown}" if key else f"{message}{shown}"


def _short(value: Any) -> str:
    """Truncated ``repr`` of a value; Python refuses to print numbers of thousands of digits."""
    try:
        text = repr(value)
    except ValueError:
        text = "a number of thousands of digits"
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _fields_at(location: Sequence[str], section: type[BaseModel]) -> list[str]:
    for part in location:  # other parts are indices, or keys of a mapping
        if part in section.model_fields:
            section = _section_of(section.model_fields[part].annotation) or section
    return list(section.model_fields)


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """The section in a type such as ``list[str | Entry]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (_section_of(part) for part in typing.get_args(annotation))
    return next((section for section in found if section is not None), None)
