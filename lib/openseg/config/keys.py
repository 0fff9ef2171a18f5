"""Table of all config keys, generated from the validating models."""

from __future__ import annotations

import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from openseg.config import Config
from openseg.config.losses import LOSS_SECTIONS, PixelLossTerm
from openseg.config.terms import Term, section_of
from openseg.config.transforms import TransformTerm
from openseg.datasets.augmentations import TRANSFORMS

__all__ = ["keys_table"]

_TYPES = "types below, or of registered ones"
_NAMES = {str: "text", int: "integer", float: "number", bool: "true, false", Path: "path"}


def keys_table() -> str:
    """Return a Markdown table of all config keys, with values, defaults and descriptions."""
    rows = [("key", "values", "default", "meaning"), ("---", "---", "---", "---"), *_rows(Config, "")]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _rows(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, ...]]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _rows(field.annotation, f"{prefix}{name}.")
        elif name == "loss":
            yield (
                "`loss`",
                "one or a list of the types below, or registered ones",
                "`{type: ce}`",
                field.description or "",
            )
            yield from _term_rows("loss", PixelLossTerm, LOSS_SECTIONS)
        elif name == "transforms":
            sections = {
                kind: section_of(each, kind, TransformTerm, ("sample", "rng")) for kind, each in TRANSFORMS.items()
            }
            yield f"`{prefix}{name}`", f"a list of the {_TYPES}", "`[]`", field.description or ""
            yield from _term_rows(f"{prefix}{name}", TransformTerm, sections)
        else:
            yield _row(f"{prefix}{name}", field)


def _term_rows(key: str, base: type[Term], sections: Mapping[str, type[Term]]) -> Iterator[tuple[str, ...]]:
    """What all types share, then for each type the keys that are its own."""
    shared = {name: field for name, field in base.model_fields.items() if name != "type"}
    for name, field in shared.items():
        yield _row(f"{key}.{name}", field)
    for kind, section in sections.items():
        documented: Any = TRANSFORMS.get(kind, section)
        summary = " ".join((documented.__doc__ or "").strip().split("\n\n")[0].split())
        yield f"`{key}` type `{kind}`", "", "", summary
        for name, field in section.model_fields.items():
            same = name in shared and shared[name].default == field.default
            if name != "type" and not same:
                yield _row(f"{key}.{name}", field)


def _row(key: str, field: FieldInfo) -> tuple[str, ...]:
    default = "(must be given)" if field.default is PydanticUndefined else f"`{_text(field.default)}`"
    return f"`{key}`", _values(field.annotation), default, field.description or ""


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
    if origin is dict:
        return "mapping"
    if arguments:  # a union
        return " or ".join("null" if each is type(None) else _values(each) for each in arguments)
    return "mapping" if isinstance(annotation, type) and issubclass(annotation, BaseModel) else _NAMES[annotation]
