"""Every key of an experiment as a table, made from the models that check them."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from openseg.config import Experiment

__all__ = ["keys_table"]

_NAMES = {str: "text", int: "integer", float: "number", bool: "true, false", Path: "path"}


def keys_table() -> str:
    """Markdown: key, values, default and meaning of everything that an experiment may say."""
    rows = [("key", "values", "default", "meaning"), ("---", "---", "---", "---"), *_rows(Experiment, "")]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, f"{prefix}{name}.")
            continue
        default = "(must be given)" if field.default is PydanticUndefined else f"`{_text(field.default)}`"
        yield f"`{prefix}{name}`", _values(field.annotation), default, field.description or ""


def _text(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def _values(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _values(arguments[0])
    if origin is typing.Literal:
        return ", ".join(str(each) for each in arguments)
    if origin is tuple:
        many = Ellipsis in arguments
        return f"{'some' if many else len(arguments)} {_values(arguments[0])}s"
    if arguments:  # a union
        return " or ".join("null" if each is type(None) else _values(each) for each in arguments)
    return _NAMES[annotation]
