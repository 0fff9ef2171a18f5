"""Inputs by role: folders and objects, tar files of WebDataset, Parquet tables; listed as a stream, read one by one.

A reference is a short text that finds one input again: the name in a folder, or the place in a container.
"""

from __future__ import annotations

import functools
import logging
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.blob import Blob, HeldFile, Stamp
from openseg.io.files import IMAGE_SUFFIXES, LABEL_SUFFIXES
from openseg.io.results import RECORD
from openseg.io.storage import Place, place_of, retried

logger = logging.getLogger("openseg")

__all__ = ["Found", "Member", "Source", "require_pyarrow"]

SUFFIXES = {
    "image": IMAGE_SUFFIXES,
    "label": LABEL_SUFFIXES,
    "prediction": LABEL_SUFFIXES,
    "truth": LABEL_SUFFIXES,
    "offset": (".png", ".mat"),
}
"""What files of a role end in."""
_IMAGES = tuple(suffix.removeprefix(".") for suffix in IMAGE_SUFFIXES if suffix not in (".png", ".tif", ".tiff"))
_COLUMNS = {
    "image": ("image", *_IMAGES, "image.png", "image.jpg", "png", "tif", "tiff"),
    "label": ("label", "label.png", "seg.png", "mask.png", "mask", "annotation", "png"),
    "prediction": ("prediction", "prediction.png", "pred.png", "pred", "label", "label.png", "png"),
    "truth": ("truth", "truth.png", "label", "label.png", "seg.png", "mask.png", "mask", "annotation", "png"),
    "offset": ("offset", "offset.png", "offset.mat", "mat", "png"),
}
"""Columns, or suffixes in tar files, that are tried for each role, in this order."""
_IDS = ("__key__", "id", "key", "name", "file_name", "filename", "path")


class Found(NamedTuple):
    """One input: the name of its sample, and what ``Source.read`` needs."""

    name: str
    ref: str


class Source:
    """The inputs of one role at an address: a folder, a file of a container's kind, or a pattern of such files."""

    def __init__(self, address: str | os.PathLike[str], role: str, column: str | None = None) -> None:
        """
        Args:
            column: column, or suffix in tar files; None tries the usual ones.

        Raises:
            DataError: there is nothing at the address.
            ConfigError: it cannot be used without a package that is missing.
        """
        self.role, self.place = role, place_of(address)
        self.columns = (column,) if column else _COLUMNS[role]
        text = self.place.address
        self.kind = next((kind for kind in ("tar", "parquet") if text.lower().endswith(f".{kind}")), "files")
        self.containers: list[str] = []
        if self.kind == "files":
            if not self.place.exists():
                raise DataError(f"{text}: no such folder, file or address")
        else:
            self.containers = _expanded(self.place)
        if self.kind == "parquet":
            require_pyarrow(text)

    def __iter__(self) -> Iterator[Found]:
        if self.kind == "files":
            yield from _files(self.place, SUFFIXES[self.role])
            return
        for number, address in enumerate(self.containers):
            found = _tar_members if self.kind == "tar" else _rows
            yield from found(address, number, self.columns, self.role)

    def read(self, found: Found) -> Blob:
        """The content of one input.

        Raises:
            DataError: it cannot be read.
            OpensegError: storage failed.
        """
        if self.kind == "files":
            place = self.place / found.ref if found.ref else self.place
            return Blob(place.address, place.read())
        return _read_inside(self.member(found))

    def member(self, found: Found) -> Member:
        """A file inside a container, read when it is needed."""
        number, _, place = found.ref.partition("\t")
        return Member(self.containers[int(number)], found.name, place)


@dataclass(frozen=True)
class Member(HeldFile):
    """A file inside a tar file or a Parquet table: ``place`` is where, ``sample`` its name there."""

    address: str
    sample: str
    place: str

    def __str__(self) -> str:
        return f"{self.address}/{self.sample}"

    @property
    def stem(self) -> str:
        """The sample's name without folders; dots belong to it."""
        return self.sample.rpartition("/")[2]

    def read_bytes(self) -> bytes:
        """The content; errors as in ``Source.read``."""
        return _read_inside(self).content

    def stat(self) -> Stamp:
        """Of its container, which is written as a whole."""
        return _stamp(self.address, os.getpid())


@functools.lru_cache(maxsize=1024)
def _stamp(address: str, _process: int) -> Stamp:
    if Place(address).local:
        status = Path(address).stat()
        return Stamp(status.st_size, status.st_mtime_ns)
    storage, path = Place(address).storage
    return Stamp(int(retried(lambda: storage.info(path), address).get("size") or 0))


def _read_inside(member: Member) -> Blob:
    address, parts = member.address, member.place.split("\t")
    if address.lower().endswith(".tar"):
        start, size, name = int(parts[0]), int(parts[1]), parts[2]
        if start < 0:
            raise DataError(f"{address}: sample {member.sample} has only {name}; name the right one with --columns")
        content = Place(address).read(start, start + size)
        if len(content) < size:
            raise DataError(f"{address}: ends inside {name}; copy it again")
        return Blob(f"{address}/{name}", content)
    group, row, column = int(parts[0]), int(parts[1]), parts[2]
    name, content = _cell(_column(address, group, column, os.getpid())[row].as_py(), f"{address}, {member.sample}")
    return Blob(f"{address}/{name or member.sample + _suffix_of(content)}", content)


def _expanded(place: Place) -> list[str]:
    """The container files of an address, which may have wildcards."""
    if not any(each in place.address for each in "*?["):
        if not place.is_file():
            raise DataError(f"{place}: no such file")
        return [place.address]
    storage, pattern = place.storage
    found = sorted(retried(lambda: storage.glob(pattern), place.address))
    if not found:
        raise DataError(f"{place}: no file has such a name")
    return [path if place.local else storage.unstrip_protocol(path) for path in found]


def _files(place: Place, suffixes: tuple[str, ...]) -> Iterator[Found]:
    if place.is_file():
        name = PurePosixPath(place.address).name
        yield Found(name, "")
        return
    names = _walk_local(place.address, "", set()) if place.local else _walk_storage(place)
    others = 0
    for name in names:
        if name.lower().endswith(suffixes):
            yield Found(name, name)
        else:
            others += 1
    if others:
        logger.info("%s: %d files are left out, which do not end in %s", place, others, ", ".join(suffixes))


def _walk_local(folder: str, prefix: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    """Names below a folder in the order of the disk, without holding them; hidden ones and results are left out.

    A folder that links lead to again is read once.
    """
    try:
        status = Path(folder).stat()
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        entries = os.scandir(folder)
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror})") from None
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                if (Path(entry.path) / RECORD).is_file():
                    continue
                yield from _walk_local(entry.path, f"{prefix}{entry.name}/", seen)
            elif entry.is_file():
                yield prefix + entry.name
            elif entry.is_symlink():
                raise DataError(f"{entry.path}: a broken symlink; fix or remove it")


def _walk_storage(place: Place) -> Iterator[str]:
    storage, root = place.storage
    root = root.rstrip("/")
    if hasattr(storage, "_iterdir") and hasattr(storage, "split_path"):  # S3: page by page
        paths = _s3_pages(storage, root)
    else:
        paths = _folders(storage, root)
    for path in paths:
        name = path.removeprefix(root).lstrip("/")
        if name and not any(part.startswith(".") for part in name.split("/")):
            yield name


def _s3_pages(storage: Any, root: str) -> Iterator[str]:
    """Keys below a prefix, as the server sends them, 1000 at a time."""
    import fsspec.asyn

    bucket, prefix, _ = storage.split_path(root)
    pages = storage._iterdir(bucket, delimiter="", prefix=f"{prefix}/" if prefix else "")
    iterator = pages.__aiter__()

    async def some(count: int) -> list[str]:
        found: list[str] = []
        async for each in iterator:
            found.append(each["name"])
            if len(found) == count:
                break
        return found

    while found := fsspec.asyn.sync(storage.loop, some, 1000):
        yield from found


def _folders(storage: Any, root: str) -> Iterator[str]:
    """Names folder by folder: that many are held as are in one folder."""
    pending = [root]
    while pending:
        folder = pending.pop()
        entries = retried(lambda folder=folder: storage.ls(folder, detail=True), folder)  # type: ignore[misc]
        for entry in entries:
            path = entry["name"].rstrip("/")
            if path == folder:
                continue
            if entry["type"] == "directory":
                pending.append(path)
            else:
                yield path


def _tar_members(address: str, number: int, columns: tuple[str, ...], role: str) -> Iterator[Found]:
    """Samples of a tar file: files that follow each other with one name up to the first dot."""
    try:
        with Place(address).open() as file, tarfile.open(fileobj=file, mode="r:") as archive:
            key = ""
            members: dict[str, tarfile.TarInfo] = {}
            while (member := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # or it keeps all of them
                if member.islnk() or member.issym():
                    raise DataError(f"{address}: {member.name} is a link to another member; write the file itself")
                if not member.isfile():
                    continue
                folder, _, base = member.name.rpartition("/")
                stem, _, suffix = base.partition(".")
                here = f"{folder}/{stem}".lstrip("/")
                if here != key:
                    yield from _chosen(key, members, number, columns)
                    key, members = here, {}
                if suffix.lower() in members:
                    raise DataError(f"{address}: {member.name} is there twice")
                members[suffix.lower()] = member
            file.seek(archive.offset)  # tarfile takes a damaged header for the end
            if file.read(512) != bytes(512):
                raise DataError(f"{address}: ends early or is damaged after {key or 'its start'}; copy it again")
            yield from _chosen(key, members, number, columns)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{address}: no readable tar file ({error}); copy it again, without compression") from None


def _chosen(key: str, members: dict[str, tarfile.TarInfo], number: int, columns: tuple[str, ...]) -> Iterator[Found]:
    """The member of a sample that has the role; where none has, an input that cannot be read and says so."""
    for column in columns:
        if column.lower() in members:
            member = members[column.lower()]
            yield Found(key, f"{number}\t{member.offset_data}\t{member.size}\t{member.name}")
            return
    if members:
        yield Found(key, f"{number}\t-1\t0\t{', '.join(members)}")


def require_pyarrow(address: object) -> Any:
    """The module that reads and writes Parquet.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise ConfigError(f"{address}: Parquet needs pyarrow; pip install 'openseg[remote]'") from None
    return pyarrow.parquet


def _table(address: str) -> Any:
    parquet = require_pyarrow(address)
    try:
        return parquet.ParquetFile(Place(address).open())
    except Exception as error:  # pyarrow raises several kinds
        raise DataError(f"{address}: no readable Parquet file ({error}); copy it again") from None


def _rows(address: str, number: int, columns: tuple[str, ...], role: str) -> Iterator[Found]:
    table = _table(address)
    names = table.schema_arrow.names
    column = next((each for each in columns if each in names), None)
    if column is None:
        raise DataError(
            f"{address}: no column of the {role}; it has {', '.join(names)}; name it with --columns {role}=NAME"
        )
    key = next((each for each in _IDS if each in names and each != column), None)
    struct = key is None and "path" in _fields(table.schema_arrow.field(column).type)
    stem = PurePosixPath(address).stem
    for group in range(table.num_row_groups):
        read = _row_group(table, address, group, key or (f"{column}.path" if struct else column))
        if key or struct:
            values = read.column(0).to_pylist()
            named = (each if key else (each or {}).get("path") for each in values)
        else:
            named = (None for _ in range(read.num_rows))
        for row, name in enumerate(named):
            fallback = f"{stem}-{group:04d}-{row:06d}"
            yield Found(str(fallback if name is None else name), f"{number}\t{group}\t{row}\t{column}")


def _fields(kind: Any) -> list[str]:
    return [kind.field(index).name for index in range(kind.num_fields)]


@functools.lru_cache(maxsize=4)
def _column(address: str, group: int, column: str, _process: int) -> Any:
    return _row_group(_table(address), address, group, column).column(0)


def _row_group(table: Any, address: str, group: int, column: str) -> Any:
    try:
        return retried(lambda: table.read_row_group(group, [column]), address)
    except OpensegError:
        raise
    except Exception as error:  # pyarrow raises several kinds
        raise DataError(f"{address}: row group {group} cannot be read ({error}); copy it again") from None


def _cell(value: Any, where: str) -> tuple[str, bytes]:
    """Name and bytes of a cell: bytes alone, or with a path as Hugging Face's datasets store them."""
    if isinstance(value, dict):
        name, value = str(value.get("path") or ""), value.get("bytes")
    else:
        name = ""
    if not isinstance(value, bytes):
        raise DataError(f"{where}: no bytes in this cell")
    return name, value


def _suffix_of(content: bytes) -> str:
    """Readers of offsets go by the suffix, which a cell of a table does not have."""
    return ".png" if content.startswith(b"\x89PNG") else ".mat" if content.startswith(b"MATLAB") else ""
