"""Files that are not on disk: what comes from archives, tables and storage, read like a path."""

from __future__ import annotations

import io
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Blob", "HeldFile", "ImageFile", "Stamp", "as_file"]


@dataclass(frozen=True)
class Stamp:
    """Size and time of a file, as ``Path.stat`` names them."""

    st_size: int
    st_mtime_ns: int = 0


class HeldFile:
    """A file by its content; has what readers need of ``pathlib.Path``. ``str`` says where it is from."""

    def read_bytes(self) -> bytes:
        """The content."""
        raise NotImplementedError

    def stat(self) -> Stamp:
        """Size, and time of the last change if that is known."""
        return Stamp(len(self.read_bytes()))

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The content as a file."""
        return io.BytesIO(self.read_bytes())

    @property
    def name(self) -> str:
        """Like that of a path, and so on."""
        return PurePosixPath(str(self)).name

    @property
    def suffix(self) -> str:
        return PurePosixPath(str(self)).suffix

    @property
    def stem(self) -> str:
        return PurePosixPath(str(self)).stem

    @property
    def parent(self) -> Path:
        return Path(str(self)).parent

    def absolute(self) -> HeldFile:
        return self

    def is_symlink(self) -> bool:
        return False


@dataclass(frozen=True)
class Blob(HeldFile):
    """A file in memory."""

    path: str
    content: bytes

    def __str__(self) -> str:
        return self.path

    def read_bytes(self) -> bytes:
        """The content."""
        return self.content


ImageFile = str | os.PathLike[str] | HeldFile


def as_file(file: ImageFile) -> Path | HeldFile:
    """``file`` as it is, if it is not on disk, or else as a path."""
    return file if isinstance(file, HeldFile) else Path(file)
