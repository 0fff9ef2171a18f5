"""Command-line options derived from the signature and docstring of keyword functions."""

from __future__ import annotations

import argparse
import inspect
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import openseg
from openseg.io.results import is_result

__all__ = ["DEBUG", "Command", "HelpFormatter", "Option", "add_commands", "add_options", "flag", "option"]
__all__ += ["options_of", "result_file"]

Arguments = argparse.Namespace
_FLAGS = {
    "config": ("--config", "--model"),
    "ground_truth": ("--gt",),
    "no_ground_truth": ("--no-gt",),
    "predictions": ("--pred",),
    "labels": ("--input",),
    "masks": ("--input",),
    "inputs": ("--input",),
    "offsets": ("--offset",),
    "splits": ("--split",),
    "listed": ("--list",),
    "eval_only": ("--eval_only", "--eval-only"),
    "dataset_dir": ("--dataset_dir", "--dataset-dir"),
}
"""Options that are not called like their parameter."""
_WORDS = {"predictions", "files", "inputs", "splits", "names"}
"""Lists whose parts are words of their own; those of other lists are parted by commas."""
_METAVARS = {"config": "YAML", "checkpoint": "PTH", "weights": "PTH", "annotations": "JSON"}
_EXPLAINED = ("validate", "train", "refine")
_NUMBERS = {int: "N", float: "X"}
_NOT_OPTIONS = {"progress", "on_scores"}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter that keeps line breaks of descriptions, with room for long option names."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=100)


class Option(NamedTuple):
    """Arguments of ``add_argument``."""

    flags: tuple[str, ...]
    settings: dict[str, Any]


class Command(NamedTuple):
    """A subcommand.

    Attributes:
        run: prints the result of the keyword function and returns the exit code; None for a group of ``commands``.
        text: the description; the list of commands shows its first line.
        function: name in ``openseg`` of the keyword function that provides the options.
        leave: parameters without an option.
        more: additional options.
    """

    name: str
    run: Callable[[Arguments], int | None] | None
    text: str
    function: str = ""
    leave: str = ""
    more: tuple[Option, ...] = ()
    commands: tuple[Command, ...] = ()

    def options(self) -> Iterator[Option]:
        """Return all options; imports the keyword function."""
        if self.function:
            yield from options_of(getattr(openseg, self.function), self.leave.split())
        yield from self.more


def option(spec: str, text: str, **settings: Any) -> Option:
    """Return an option from ``spec``: flags and value name, such as ``"--json FILE"``, or a positional's name."""
    flags = tuple(word for word in spec.split() if word.startswith("-"))
    values = [word for word in spec.split() if not word.startswith("-")]
    metavar = {"metavar": values[0]} if flags and values else {}
    return Option(flags or (values[0],), {**metavar, **settings, "help": text})


def flag(spec: str, text: str, **settings: Any) -> Option:
    """Return an option without a value."""
    return option(spec, text, **{"action": "store_true", **settings})


def result_file(suffix: str) -> Callable[[str], Path]:
    """Return a parser of output paths; an existing file that is not such a result is refused before any work."""

    def parse(text: str) -> Path:
        path = Path(text)
        if path.exists() and (path.suffix.lower() != suffix or not is_result(path)):
            raise argparse.ArgumentTypeError(
                f"{path} exists and is not a {suffix} result of this command; choose another name"
            )
        return path

    return parse


DEBUG = flag("--debug", "show the traceback of an error")


def add_options(parser: argparse.ArgumentParser, options: Iterable[Option]) -> argparse.ArgumentParser:
    """Add ``options`` to a parser."""
    for flags, settings in options:
        parser.add_argument(*flags, **settings)
    return parser


def add_commands(
    parser: argparse.ArgumentParser, commands: Sequence[Command], wanted: str | None = None, prog: str | None = None
) -> None:
    """Add subcommands, with options only for the ``wanted`` one, which saves imports; None: all."""
    group = parser.add_subparsers(dest="command", required=True, metavar="command")
    for each in commands:
        sub = group.add_parser(
            each.name,
            help=each.text.partition("\n")[0],
            description=each.text,
            formatter_class=HelpFormatter,
            allow_abbrev=False,
            **({"prog": prog} if prog and each is commands[0] else {}),  # type: ignore[arg-type]
        )
        sub.set_defaults(run=each.run)
        # Without a default, so that --debug before the command is kept.
        add_options(sub, [Option(DEBUG.flags, {**DEBUG.settings, "default": argparse.SUPPRESS})])
        if wanted in (None, each.name):
            add_options(sub, each.options())
            if each.commands:
                add_commands(sub, each.commands)


def options_of(function: Callable[..., Any], leave: Iterable[str] = ()) -> Iterator[Option]:
    """Yield options for the parameters of a keyword function, described by ``Args`` of its docstring."""
    parameters = inspect.signature(function).parameters
    hints, texts = get_type_hints(function), _texts(function)
    for name, parameter in parameters.items():
        if name not in _NOT_OPTIONS | {*leave}:
            text = texts.get(name) or _text_elsewhere(name)
            yield _option(parameter, hints[name], _shown(text, parameters))


def _text_elsewhere(name: str) -> str:
    """Return the description of a parameter from another function's docstring."""
    return next(texts[name] for each in _EXPLAINED if name in (texts := _texts(getattr(openseg, each))))


def _texts(function: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions in a docstring's ``Args``."""
    found = re.search(r"\nArgs:\n((?:    .*\n?)+)", inspect.getdoc(function) or "")
    entries = re.findall(r"^    ([\w, ]+): (.*(?:\n {8}.*)*)", found.group(1) if found else "", re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def _shown(text: str, parameters: Iterable[str]) -> str:
    """Convert a docstring's text to help text: flags for parameters, and defaults in parentheses."""

    def word(match: re.Match[str]) -> str:
        name = match.group(1)
        return _flags(name)[0] if name in parameters else name

    text = re.sub(r"``(.+?)``", word, re.sub(r"(?<!\.)\.$", "", text))
    text = re.sub(r"[:;,]? ?None is (.+)", r" (default: \1)", text).replace("%", "%%")
    return text[2:-1] if text.startswith(" (") else text


def _flags(name: str) -> tuple[str, ...]:
    return _FLAGS.get(name, ("--" + name.replace("_", "-"),))


def _option(parameter: inspect.Parameter, hint: Any, text: str) -> Option:
    name, default = parameter.name, parameter.default
    required = default is inspect.Parameter.empty
    if name == "overrides":
        return Option((name,), {"nargs": "*", "metavar": "key.sub=value", "help": text})
    settings = {"help": text} | _type(name, hint)
    positional = required and parameter.kind is not inspect.Parameter.KEYWORD_ONLY and name not in {*_FLAGS, "config"}
    if positional:
        return Option((name,), settings | {"metavar": name.upper()})
    if hint is bool:
        action = "store_false" if default else "store_true"
        flags = (f"--no-{name}",) if default else _flags(name)
        return Option(flags, {"dest": name, "action": action, "help": ("do not " if default else "") + text})
    if name == "workers":
        default = os.cpu_count() or 1
    elif not required and default not in (None, ()) and "default:" not in text:
        shown = ",".join(map(str, default)) if isinstance(default, tuple) else default
        settings["help"] += f" (default: {shown})"
    return Option(_flags(name), settings | {"dest": name, **({"required": True} if required else {"default": default})})


def _type(name: str, hint: Any) -> dict[str, Any]:
    """Return the ``add_argument`` settings of a type."""
    if name in _WORDS:
        return {"nargs": "+"}
    for kind in get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,):
        if kind in _NUMBERS:
            return {"type": whole_number if kind is int else kind, "metavar": _NUMBERS[kind]}
        if get_origin(kind) is Literal:
            return {"choices": get_args(kind)}
        if get_origin(kind) is tuple:
            return {"type": get_args(kind)[0], "nargs": 2, "metavar": ("H", "W")}
        if get_origin(kind) is Sequence:
            (part,) = get_args(kind)
            shown = _NUMBERS.get(part, "NAME")
            return {"type": _parted(part), "metavar": f"{shown},{shown}"}
        if kind == os.PathLike[str]:
            return {"metavar": _METAVARS.get(name, "PATH")}
    return {"metavar": name.upper()}


def whole_number(text: str) -> int:
    """Parse an integer, also one written as 2.0."""
    try:
        value = float(text) if "." in text else int(text)
        if value == int(value):
            return int(value)
    except (ValueError, OverflowError):
        pass
    raise argparse.ArgumentTypeError(f"{text}: use a whole number")


def _parted(convert: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Return a parser of comma-separated values; ``none`` is an empty list."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            return () if text == "none" else tuple(dict.fromkeys(convert(part) for part in text.split(",") if part))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not none or comma-separated numbers, such as 1,2") from None

    return parse
