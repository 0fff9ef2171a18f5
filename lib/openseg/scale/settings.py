"""How much of a source is done, by what, and how results are kept: options of every command for large sources."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from openseg.errors import ConfigError
from openseg.tools.paths import PathLike

__all__ = ["Scale", "is_large"]

_CONTAINERS = (".tar", ".parquet", ".zip")


@dataclass(frozen=True)
class Scale:
    """Options for large inputs.

    Args:
        engine: local: processes and threads of this machine; ray: workers of a Ray cluster.
        address: address of a Ray cluster; None is one started on this machine.
        num_workers: workers; None is one for each core, or for each GPU with ``num_gpus_per_worker``.
        num_cpus_per_worker: cores that Ray reserves for each worker.
        num_gpus_per_worker: GPUs, or a share of one, that Ray reserves for each worker.
        shard: do only this part of the input, such as 3/100; parts are chosen by a hash of the name.
        listed: file of the names to do, one a line; others are left out.
        max_errors: stop after this many broken inputs; None is no limit.
        format: files: an object for each result; tar: WebDataset shards; parquet: tables.
        columns: names of columns, or suffixes in tar files, as role=name, such as image=jpg,label=seg.png.
        block: number of inputs that are done and recorded together; None is chosen by the work.
    """

    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    num_workers: int | None = None
    num_cpus_per_worker: float = 1.0
    num_gpus_per_worker: float = 0.0
    shard: str | None = None
    listed: PathLike | None = None
    max_errors: int | None = None
    format: Literal["files", "tar", "parquet"] = "files"
    columns: str | None = None
    block: int | None = None

    def __post_init__(self) -> None:
        """
        Raises:
            ConfigError: a value that cannot be.
        """
        _ = self.part, self.named
        for name, least in (("num_workers", 1), ("max_errors", 0), ("block", 1), ("num_gpus_per_worker", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ConfigError(f"--{name.replace('_', '-')} {value}: use at least {least}")
        if self.num_cpus_per_worker <= 0:
            raise ConfigError(f"--num-cpus-per-worker {self.num_cpus_per_worker:g}: use more than 0")

    @property
    def part(self) -> tuple[int, int]:
        """The shard as (number from 0, how many)."""
        if self.shard is None:
            return 0, 1
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard)
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            raise ConfigError(f"--shard {self.shard}: write 1/100 to 100/100 for one of a hundred parts")
        return int(match[1]) - 1, int(match[2])

    @property
    def named(self) -> dict[str, str]:
        """Column by role."""
        pairs = [each.partition("=") for each in (self.columns or "").split(",") if each]
        if any(not role or not name for role, _, name in pairs):
            raise ConfigError(f"--columns {self.columns}: write role=name, such as image=jpg,label=seg.png")
        return {role: name for role, _, name in pairs}

    @property
    def is_default(self) -> bool:
        """Whether nothing was asked for that only this package does."""
        return self == Scale()


def is_large(*sources: object) -> bool:
    """Whether one of the inputs or outputs is in storage or in shards, which only this package reads and writes."""
    return any("://" in str(each) or str(each).lower().endswith(_CONTAINERS) for each in sources if each is not None)
