"""Dataset description files (YAML): those in ``definitions/`` and users' own (docs/your-data.md).

The shortest file has one line, ``classes: [background, road, car]``: images and labels are in
``{train,val,test}/{image,label}`` beside the file, and pixels hold 0, 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, ValidationError

from openseg.datasets.info import Band, DatasetInfo, SplitFiles
from openseg.errors import ConfigError, nearest_names
from openseg.labels import IGNORE_INDEX
from openseg.schema import Section, explain, read_yaml

__all__ = ["DatasetFile", "read_dataset_file"]

Byte = Annotated[int, Field(ge=0, le=255)]
FileId = Annotated[int, Field(ge=0, le=65535)]
Color = tuple[Byte, Byte, Byte]

_MAX_CLASSES = 254
_IGNORED = "ignore"
_LARGEST_THING = 64


class ClassEntry(Section):
    """A class; without an explicit ID, its ID is its position."""

    name: str
    id: Byte | None = None
    color: Color | None = None
    weight: Annotated[float, Field(gt=0)] | None = None


class SplitEntry(Section):
    """See ``openseg.datasets.info.SplitFiles``."""

    image: str | None = None
    label: str | None = None
    instance: str | None = None
    list: str | None = None
    image_suffix: str = ""
    image_prefix: str = ""
    label_suffix: str = ""
    label_prefix: str = ""
    shards: str | None = None


class BandEntry(Section):
    """A channel of the images."""

    name: str
    mean: float
    std: Annotated[float, Field(gt=0)]


class DatasetFile(Section):
    """Keys of the file; only ``classes`` is required."""

    classes: str | Annotated[list[str | ClassEntry], Field(min_length=1)] = Field(
        description="names, entries, or the dataset whose classes these are"
    )
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = Field(None, description="null: the file's name")
    folder: str | None = Field(None, description="where the splits are; null: beside this file")
    splits: dict[str, SplitEntry] = Field({}, description="where it is not <split>/{image,label}")
    ids: Literal["train"] | dict[FileId, str] | None = Field(
        None, description="class of each label ID, or ignore; train: the files hold 0, 1, 2, ... in the classes' order"
    )
    ignored_ids: tuple[FileId, ...] | None = None
    void_id: Byte | None = Field(
        None, description="written where a prediction has no class; null: 255, or the largest id that no class has"
    )
    thing_ids: tuple[FileId, ...] | None = None
    flip_pairs: tuple[tuple[str | Byte, str | Byte], ...] | None = Field(None, description="names or label IDs")
    label_colors: bool = Field(False, description="label files are RGB images in the classes' colors")
    ignored_colors: tuple[Color, ...] = ()
    unknown_values: Literal["error", "nearest", "ignore"] = Field(
        "error", description="values of label files that are no class: an error, the nearest id or color, or ignored"
    )
    bands: Annotated[list[BandEntry], Field(min_length=1)] | None = Field(
        None, description="channels of the images, with mean and std of their values; null: RGB of 8 bits"
    )
    display: tuple[str, str, str] | None = Field(
        None, description="names of the bands to show as red, green and blue; null: the first three"
    )
    boundary_ratio: Annotated[float, Field(gt=0, le=0.5)] | None = Field(
        None, description="width of the regions that Boundary IoU compares, over the image diagonal; null: 0.02"
    )


def read_dataset_file(path: Path, base_of: Callable[[str], DatasetInfo], own: bool = True) -> DatasetInfo:
    """Read a dataset's file.

    Args:
        base_of: returns the dataset, by name, whose classes the file reuses.
        own: a user's file, with paths relative to the file instead of the data root.

    Raises:
        ConfigError: unreadable or invalid; the message names the file and the key.
    """
    values = read_yaml(path, "the description of a dataset; see docs/your-data.md")
    try:
        facts = DatasetFile.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, DatasetFile)}") from None
    name = facts.name or path.stem
    try:
        classes = _classes(facts, base_of)
        ids = _ids(facts, classes)
        pairs = _pairs(facts, classes, ids["ids"])
        bands, display = _bands(facts)
        if facts.label_colors:
            _require_different((*classes.colors, *facts.ignored_colors), "label_colors", "color")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
    folder = facts.folder or (name if not own else ".")
    return DatasetInfo(
        name=name,
        folder=str((path.parent / folder).resolve()) if own else folder,
        classes=classes.names,
        colors=classes.colors,
        class_weights=classes.weights,
        flip_pairs=pairs,
        label_colors=facts.label_colors,
        ignored_colors=facts.ignored_colors,
        unknown_values=facts.unknown_values,
        splits={split: SplitFiles(**entry.model_dump()) for split, entry in facts.splits.items()},
        boundary_ratio=facts.boundary_ratio or (classes.base or DatasetInfo).boundary_ratio,
        bands=bands,
        display=display,
        **ids,
    )


def _bands(facts: DatasetFile) -> tuple[tuple[Band, ...], tuple[int, int, int]]:
    """The bands, and the positions of those that are shown."""
    bands = tuple(Band(each.name, each.mean, each.std) for each in facts.bands or ())
    names = [band.name for band in bands]
    _require_different(tuple(names), "bands", "band")
    if not bands and facts.display is not None:
        raise ConfigError("display: is of bands, and there are none")
    for name in facts.display or ():
        if name not in names:
            raise ConfigError(f"display: no band {name!r}; {nearest_names(name, names)}")
    last = max(len(bands) - 1, 0)
    red, green, blue = map(names.index, facts.display) if facts.display else (0, min(1, last), min(2, last))
    return bands, (red, green, blue) if bands else (0, 1, 2)


class _Classes(NamedTuple):
    """The classes, in the order of train IDs; ``base`` is the dataset that they were taken from."""

    names: tuple[str, ...]
    colors: tuple[tuple[int, int, int], ...]
    weights: tuple[float, ...] | None
    ids: tuple[int, ...]
    base: DatasetInfo | None = None


def _classes(facts: DatasetFile, base_of: Callable[[str], DatasetInfo]) -> _Classes:
    if isinstance(facts.classes, str):
        base = base_of(facts.classes)
        return _Classes(base.classes, base.colors, base.class_weights, base.ids, base)
    entries = [ClassEntry(name=entry) if isinstance(entry, str) else entry for entry in facts.classes]
    names = tuple(entry.name for entry in entries)
    _require_different(names, "classes", "class")
    if len(names) > _MAX_CLASSES:
        raise ConfigError(f"classes: {len(names)} of them, at most {_MAX_CLASSES} are possible")
    weights = tuple(entry.weight for entry in entries if entry.weight is not None)
    if weights and len(weights) != len(entries):
        raise ConfigError("classes: give every class a weight, or none")
    colors = tuple(entry.color or _default_color(number) for number, entry in enumerate(entries))
    if facts.label_colors and any(entry.color is None for entry in entries):
        raise ConfigError("label_colors: every class needs its color")
    if facts.ids is not None and any(entry.id is not None for entry in entries):
        raise ConfigError("ids: the classes have an id each already; leave out the one or the other")
    ids = tuple(number if entry.id is None else entry.id for number, entry in enumerate(entries))
    return _Classes(names, colors, weights or None, ids)


def _require_different(values: tuple, key: str, what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise ConfigError(f"{key}: {what} {value!r} is there {values.count(value)} times")


def _default_color(number: int) -> tuple[int, int, int]:
    """Return a color by PASCAL VOC's bit scheme, far apart for neighboring numbers; black is reserved."""
    red = green = blue = 0
    number += 1
    for bit in range(7, -1, -1):
        red |= (number & 1) << bit
        green |= (number >> 1 & 1) << bit
        blue |= (number >> 2 & 1) << bit
        number >>= 3
    return red, green, blue


def _ids(facts: DatasetFile, classes: _Classes) -> dict[str, Any]:
    """Return the dataset's fields about label IDs."""
    base, ids, merged, ignored = classes.base, classes.ids, [], list(facts.ignored_ids or ())
    if facts.ids is None:
        if base is not None:
            merged = list(base.merged_ids)
            ignored = list(base.ignored_ids if facts.ignored_ids is None else facts.ignored_ids)
    elif facts.ids == "train":
        ids = tuple(range(len(classes.names)))
    else:
        ids, merged = _id_table(facts.ids, classes.names, ignored)
    _require_different(ids, "classes", "id")
    used = {*ids, *(file_id for file_id, _ in merged)}
    if used & set(ignored):
        raise ConfigError(f"ignored_ids: {min(used & set(ignored))} is the id of a class")
    void = facts.void_id
    if void is None and base is not None and facts.ids is None:
        void = base.void_id
    elif void is None:
        void = max((each for each in range(IGNORE_INDEX + 1) if each not in used), default=-1)
        if void < 0:
            raise ConfigError(
                "ids: all of 0 to 255 are classes; leave one for void_id, where a prediction has no class"
            )
        ignored += [void] if void != IGNORE_INDEX else []
    if void in used:
        raise ConfigError(f"void_id: {void} is the id of a class; set it to an id that is none")
    if void != IGNORE_INDEX and void not in ignored:
        raise ConfigError(f"void_id: {void} must be one of ignored_ids, or predictions could not be read again")
    if facts.thing_ids and not all(0 < file_id <= _LARGEST_THING for file_id in facts.thing_ids):
        raise ConfigError(f"thing_ids: from 1 to {_LARGEST_THING}; an instance map holds id * 1000 + number in 16 bits")
    things = facts.thing_ids if facts.thing_ids is not None else (base.thing_ids if base and facts.ids is None else ())
    return {
        "ids": ids,
        "merged_ids": tuple(merged),
        "ignored_ids": tuple(ignored),
        "void_id": void,
        "thing_ids": things,
    }


def _id_table(
    table: dict[int, str], names: tuple[str, ...], ignored: list[int]
) -> tuple[tuple[int, ...], list[tuple[int, int]]]:
    """Return the first ID of each class and (label ID, train ID) of the others; add ignored IDs to ``ignored``."""
    first: dict[str, int] = {}
    merged = []
    for file_id, name in table.items():
        if name == _IGNORED and name not in names:
            ignored.append(file_id)
        elif name not in names:
            raise ConfigError(f"ids: {file_id} is of no class '{name}'; {nearest_names(name, names)}, or {_IGNORED}")
        elif name in first:
            merged.append((file_id, names.index(name)))
        else:
            first[name] = file_id
    missing = [name for name in names if name not in first]
    if missing:
        raise ConfigError(f"ids: class {missing[0]} has none")
    if max(first.values()) > IGNORE_INDEX:
        raise ConfigError("ids: the first id of each class is written in predictions and is at most 255")
    return tuple(first[name] for name in names), merged


def _pairs(facts: DatasetFile, classes: _Classes, ids: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    """Return train IDs of class pairs that swap in a mirrored image."""
    if facts.flip_pairs is None:
        return classes.base.flip_pairs if classes.base else ()

    def number(value: str | int) -> int:
        known = classes.names if isinstance(value, str) else ids
        if value not in known:
            raise ConfigError(f"flip_pairs: no class {value!r}; {nearest_names(str(value), classes.names)}")
        return known.index(value)

    pairs = tuple((number(left), number(right)) for left, right in facts.flip_pairs)
    _require_different(tuple(classes.names[each] for pair in pairs for each in pair), "flip_pairs", "class")
    return pairs
