"""Files and objects by address, through fsspec: atomic writes, and another try where a server fails.

https://filesystem-spec.readthedocs.io has the addresses; credentials and servers are set where fsspec and the clients
of the storages look for them (environment, ``~/.config/fsspec``).
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import time
import uuid
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from openseg.errors import ConfigError, DataError, OpensegError
from openseg.io.files import atomic_write

__all__ = ["Place", "place_of", "retried"]

logger = logging.getLogger("openseg")
T = TypeVar("T")

_TRIES, _FIRST_PAUSE = 6, 0.5
_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "azure", "huggingface_hub", "httpx")
_LASTING = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "hf": "huggingface_hub", "abfs": "adlfs"}
_PACKAGES |= {"az": "adlfs", "http": "aiohttp", "https": "aiohttp"}
_IN_EXTRA = ("s3fs", "aiohttp")
_READ_ONLY = ("zip", "tar", "http", "https")
# A server that stalls is given up and asked again, instead of waited for. Others write meanwhile, so that a listing
# that is kept would be wrong.
_OPTIONS: dict[str, dict[str, Any]] = {
    "s3": {
        "config_kwargs": {"connect_timeout": 10, "read_timeout": 20, "retries": {"max_attempts": 3}},
        "use_listings_cache": False,
    }
}
_OPTIONS["s3a"] = _OPTIONS["s3"]
_OPTIONS |= {name: {"use_listings_cache": False} for name in ("gs", "gcs", "az", "abfs", "hf")}


def retried(work: Callable[[], T], what: str) -> T:
    """``work()``, tried again with growing pauses where storage fails.

    Raises:
        DataError: there is no such object, or it may not be read.
        OpensegError: all tries failed.
    """
    for number in range(_TRIES):
        try:
            return work()
        except _LASTING as error:
            raise DataError(f"{what}: {_reason(error)}") from None
        except OpensegError:
            raise
        except _DAMAGED as error:
            raise DataError(f"{what}: damaged ({_reason(error)}); copy it again") from None
        except Exception as error:  # clients raise their own classes, such as a timeout of botocore
            of_client = type(error).__module__.partition(".")[0] in _CLIENTS
            if not isinstance(error, (OSError, TimeoutError)) and not of_client:
                raise
            if number == _TRIES - 1 or "Credentials" in type(error).__name__:
                tries = f"failed {number + 1} times, the last time with: " if number else ""
                raise OpensegError(f"{what}: {tries}{_reason(error)}") from None
            logger.info("%s: %s; trying again", what, _reason(error))
            time.sleep(_FIRST_PAUSE * 2**number)
    raise AssertionError


def _reason(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    return f"{getattr(error, 'strerror', None) or error or type(error).__name__}"


class Place:
    """A folder or file by its address; local ones may be given as plain paths."""

    def __init__(self, address: str | os.PathLike[str]) -> None:
        self.address = os.fspath(address)

    def __str__(self) -> str:
        return self.address

    def __getstate__(self) -> str:
        return self.address

    def __setstate__(self, address: str) -> None:
        self.address = address

    @property
    def local(self) -> bool:
        """Whether it is on a file system of this machine."""
        return "://" not in self.address

    @property
    def takes_results(self) -> bool:
        """Whether many processes can write objects there."""
        return self.address.partition("://")[0] not in _READ_ONLY or self.local

    @property
    def in_this_process(self) -> bool:
        """Whether other processes cannot see it."""
        return self.address.startswith("memory://")

    def __truediv__(self, name: str) -> Place:
        if "::" in self.address:  # zip://folder::s3://bucket/archive.zip
            inner, _, rest = self.address.partition("::")
            start = inner if inner.endswith("://") else f"{inner.rstrip('/')}/"
            return Place(f"{start}{name}::{rest}")
        return Place(f"{self.address.rstrip('/')}/{name}")

    @property
    def storage(self) -> tuple[Any, str]:
        """fsspec's file system, and the path in it.

        Raises:
            ConfigError: an unknown kind of address, or a package is missing.
        """
        return _storage(self.address, os.getpid())

    def read(self, start: int | None = None, end: int | None = None) -> bytes:
        """All bytes, or a range of them; see ``retried`` for errors."""
        if self.local:
            return retried(lambda: _read_local(self.address, start, end), self.address)
        storage, path = self.storage
        return retried(lambda: bytes(storage.cat_file(path, start=start, end=end)), self.address)

    def open(self) -> Any:
        """A file to read from, which can seek."""
        storage, path = self.storage
        return retried(lambda: storage.open(path, "rb"), self.address)

    def write(self, content: bytes, unfinished: Path | None = None) -> None:
        """Write all bytes at once: readers see nothing or everything.

        Args:
            unfinished: of local files, the folder of the temporary ones.

        Raises:
            OpensegError: it cannot be written.
        """
        if self.local:
            with atomic_write(self.address, False, unfinished) as temporary:
                temporary.write_bytes(content)
            return
        storage, path = self.storage
        retried(lambda: storage.pipe_file(path, content), self.address)

    def write_lines(self, lines: Iterator[str]) -> None:
        """Write a text of any length, all or nothing; local disk holds it meanwhile."""
        import tempfile

        if self.local:
            with atomic_write(self.address) as temporary, temporary.open("w", encoding="utf-8") as file:
                file.writelines(lines)
            return
        storage, path = self.storage
        with tempfile.TemporaryDirectory(prefix="openseg-") as folder:
            held = Path(folder) / uuid.uuid4().hex
            with held.open("w", encoding="utf-8") as file:
                file.writelines(lines)
            retried(lambda: storage.put_file(str(held), path), self.address)

    def remove(self) -> None:
        """Remove a file or object, unless another process has done it."""
        storage, path = self.storage
        with contextlib.suppress(FileNotFoundError):
            storage.rm_file(path)

    def exists(self) -> bool:
        """Whether there is a file or a folder."""
        if self.local:
            return Path(self.address).exists()
        storage, path = self.storage
        return bool(retried(lambda: storage.exists(path), self.address))

    def is_file(self) -> bool:
        """Whether it is one file or object."""
        if self.local:
            return Path(self.address).is_file()
        storage, path = self.storage
        return bool(retried(lambda: storage.isfile(path), self.address))


def place_of(address: str | os.PathLike[str] | Place) -> Place:
    """``address`` as a place; an archive given as a file is the folder of its files."""
    if isinstance(address, Place):
        return address
    text = os.fspath(address)
    if text.lower().endswith(".zip") and not text.startswith("zip://"):
        return Place(f"zip://::{text}")
    return Place(text)


def _read_local(path: str, start: int | None, end: int | None) -> bytes:
    with open(path, "rb") as file:
        if start:
            file.seek(start)
        return file.read() if end is None else file.read(end - (start or 0))


@functools.lru_cache(maxsize=64)
def _storage(address: str, _process: int) -> tuple[Any, str]:
    import fsspec
    from fsspec.core import url_to_fs

    protocol = address.partition("://")[0] if "://" in address else "file"
    chained = [each.partition("://")[0] for each in address.split("::")]
    options = {name: _OPTIONS[name] for name in chained if name in _OPTIONS and len(chained) > 1}
    direct = {} if len(chained) > 1 else _OPTIONS.get(protocol, {})
    try:
        storage, path = retried(lambda: url_to_fs(address, **options, **direct), address)
    except (ImportError, ValueError) as error:
        package = next((_PACKAGES[each] for each in chained if each in _PACKAGES), "")
        if isinstance(error, ImportError) and package:
            wanted = "'openseg[remote]'" if package in _IN_EXTRA else package
            raise ConfigError(f"{address}: needs {package}; pip install {wanted}") from None
        known = ", ".join(sorted({"file", "memory", "zip", "tar", *_PACKAGES} & {*fsspec.available_protocols()}))
        raise ConfigError(f"{address}: an unknown kind of address ({error}); known: {known}") from None
    return storage, path
