"""Files of a public release, whether it is unpacked or still a zip (also a zip in a zip) or a tar."""

from __future__ import annotations

import functools
import io
import lzma
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openseg.errors import DataError
from openseg.io.files import walk_files

__all__ = ["Entry", "list_entries"]

_ARCHIVES = (".zip", ".tar")
_PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".rar", ".7z")
_LOCAL_HEADER = struct.Struct("<26xHH")


@dataclass(frozen=True)
class Entry:
    """A file of a release.

    Attributes:
        name: its path inside the release, with ``/``.
        path: the file itself, or the archive that holds it.
        members: names in a zip, the outermost first, where zips lie in zips; empty for other files.
        offset: where it begins in a tar.
        size: bytes.
        root: the last two parts of the folder's path that was given, joined by ``/``.
    """

    name: str
    path: Path
    size: int
    members: tuple[str, ...] = ()
    offset: int | None = None
    root: str = ""

    @property
    def is_file(self) -> bool:
        """It lies unpacked on the disk."""
        return not self.members and self.offset is None

    def read(self) -> bytes:
        """Its content.

        Raises:
            DataError: it cannot be read, or the archive is damaged.
        """
        try:
            if self.members:
                return _open_zip(self.path, self.members[:-1]).read(self.members[-1])
            with open(self.path, "rb") as file:
                file.seek(self.offset or 0)
                content = file.read(self.size)
        except (OSError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError) as error:
            raise DataError(f"{self.path}: {self.name} cannot be read ({error}); download or copy it again") from None
        if len(content) != self.size:
            raise DataError(f"{self.path}: ends within {self.name}; download it again")
        return content


class _Window(io.RawIOBase):
    """Part of a file as a file object: an uncompressed zip inside a zip."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._file, self._start, self._size, self._place = open(path, "rb"), start, size, 0  # noqa: SIM115

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence] + offset
        return self._place

    def tell(self) -> int:
        return self._place

    def readinto(self, buffer: Any) -> int:
        length = max(min(len(buffer), self._size - self._place), 0)
        self._file.seek(self._start + self._place)
        content = self._file.read(length)
        buffer[: len(content)] = content
        self._place += len(content)
        return len(content)

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_zip(path: Path, members: tuple[str, ...] = ()) -> zipfile.ZipFile:
    """A zip, or the zip that ``members`` lead to inside it; opened once in each process."""
    return _open_zip_in(os.getpid(), path, members)  # an open file of the parent would share its position


@functools.lru_cache(maxsize=16)
def _open_zip_in(_: int, path: Path, members: tuple[str, ...]) -> zipfile.ZipFile:
    start, size = _span(path, members)
    try:
        return zipfile.ZipFile(io.BufferedReader(_Window(path, start, size)) if members else path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a whole zip file ({error}); download it again") from None


def _span(path: Path, members: tuple[str, ...]) -> tuple[int, int]:
    """Where the innermost of ``members`` begins in ``path``, and its size."""
    if not members:
        return 0, path.stat().st_size
    base, _ = _span(path, members[:-1])
    info = _open_zip(path, members[:-1]).getinfo(members[-1])
    if info.compress_type != zipfile.ZIP_STORED:
        raise DataError(f"{path}: holds {members[-1]}, which is compressed twice; unzip {path.name} once and run again")
    header = base + info.header_offset
    with open(path, "rb") as file:
        file.seek(header)
        name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return header + _LOCAL_HEADER.size + name + extra, info.file_size


def list_entries(inputs: Sequence[str | os.PathLike]) -> list[Entry]:
    """All files of a release, given as folders and archives; unpacked files come first, hidden ones are left out.

    Raises:
        DataError: an input is missing, damaged, or packed in another way.
    """
    files: list[Entry] = []
    packed: list[Entry] = []
    for each in map(Path, inputs):
        if not each.exists():
            raise DataError(f"{each}: no such folder or archive")
        if each.is_dir():
            root = "/".join(each.resolve().parts[-2:])
            for path in sorted(map(Path, walk_files(each))):
                files.append(Entry(path.relative_to(each).as_posix(), path, path.stat().st_size, root=root))
                if path.suffix.lower() in _ARCHIVES:
                    packed += _entries_of(path)
        elif each.name.lower().endswith(_PACKED):
            raise DataError(f"{each}: cannot be read as it is; unpack it and pass the folder")
        elif each.suffix.lower() in _ARCHIVES:
            packed += _entries_of(each)
        else:
            files.append(Entry(each.name, each, each.stat().st_size))
    return [entry for entry in [*files, *packed] if not _is_hidden(entry.name)]


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _entries_of(path: Path) -> Iterable[Entry]:
    return _tar_entries(path) if path.suffix.lower() == ".tar" else _zip_entries(path, ())


def _zip_entries(path: Path, members: tuple[str, ...]) -> Iterator[Entry]:
    for info in _open_zip(path, members).infolist():
        if info.is_dir():
            continue
        inner = (*members, info.filename)
        yield Entry(info.filename, path, info.file_size, inner)
        if info.filename.lower().endswith(".zip") and not _is_hidden(info.filename):
            yield from _zip_entries(path, inner)


def _tar_entries(path: Path) -> Iterator[Entry]:
    try:
        with tarfile.open(path, "r:") as archive:
            for info in archive:
                if info.isfile():
                    yield Entry(info.name.removeprefix("./"), path, info.size, offset=info.offset_data)
    except (OSError, tarfile.TarError) as error:
        raise DataError(f"{path}: not a whole, uncompressed tar file ({error}); download or unpack it again") from None
