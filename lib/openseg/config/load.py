"""Config loading: a YAML file plus ``dotted.key=value`` overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from openseg.config.sections import Config
from openseg.datasets.registry import remember_dataset
from openseg.errors import ConfigError
from openseg.io.exported import is_exported, read_facts
from openseg.plugins import load_plugins
from openseg.schema import explain, parse_yaml, read_yaml
from openseg.shipped import shipped_file

__all__ = ["load_config"]


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a config from YAML or from an exported network, and apply overrides ``dotted.key=value``; the last one wins.

    Raises:
        ConfigError: missing file, bad YAML, unknown key (with the nearest names), an invalid value, or a module of
            ``plugins`` that cannot be imported.
    """
    path = shipped_file(path)
    values = _exported(path) if is_exported(path) else read_yaml(path, "the config; see configs/")
    for override in overrides:
        _apply(values, override)
    plugins = values.get("plugins", ())
    if isinstance(plugins, list) and all(isinstance(name, str) for name in plugins):  # else the section says so
        load_plugins(plugins, [path.parent])
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, Config)}") from None


def _exported(path: Path) -> dict[str, Any]:
    """The settings in an exported file, whose dataset is then known without its own file."""
    facts = read_facts(path)
    remember_dataset(facts["settings"]["data"]["dataset"], facts["dataset"])
    return dict(facts["settings"])


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"override '{override}': write it as key.sub=value")
    try:
        value = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"override '{override[:200]}': the value is not valid YAML ({error})") from None
    *parents, leaf = key.split(".")
    place: Any = values
    for parent, child in zip(parents, [*parents, leaf][1:], strict=True):
        if isinstance(place, list):
            position = _position(place, parent, override)
            if isinstance(place[position], str):  # a type without options
                place[position] = {"type": place[position]}
            place = place[position]
        else:
            place = place.setdefault(parent, {})
        if isinstance(place, list) and len(place) == 1 and isinstance(place[0], dict) and not child.isdigit():
            place = place[0]  # a dumped config lists its only loss
        if not isinstance(place, (dict, list)):
            raise ConfigError(f"override '{override}': '{parent}' is a value, not a section")
    if isinstance(place, list):
        place[_position(place, leaf, override)] = value
    else:
        place[leaf] = value


def _position(entries: list[Any], text: str, override: str) -> int:
    if not text.isdigit() or int(text) >= len(entries):
        raise ConfigError(f"override '{override}': '{text}' is no position in a list of {len(entries)}, counted from 0")
    return int(text)
