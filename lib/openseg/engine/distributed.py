"""One command in several processes, as ``torchrun`` starts them; alone it is a group of one.

The variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) are the only environment that the library reads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import distributed

from openseg.errors import ConfigError, Interrupted

__all__ = ["Group", "pick_device", "process_group"]

T = TypeVar("T")
# Waiting for the slowest may take as long as it likes: torchrun ends everybody when one process fails.
_PATIENCE = timedelta(days=30)


class Group(NamedTuple):
    """The processes that share the work."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that speaks, and writes what there is one of."""
        return self.rank == 0

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's to do; every item is somebody's, and nobody else's."""
        return items[self.rank :: self.world]

    def broadcast(self, value: Any) -> Any:
        """The first process's ``value``, in all of them."""
        if self.world == 1:
            return value
        box = [value]
        with _end_with_the_others():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.world > 1:
            with _end_with_the_others():
                distributed.barrier()


@contextlib.contextmanager
def _end_with_the_others() -> Iterator[None]:
    try:
        yield
    except RuntimeError:  # the connection is gone with its process
        raise Interrupted("stopped, since another process did") from None


@contextlib.contextmanager
def process_group() -> Iterator[Group]:
    """The group that torchrun started, over gloo: what is exchanged are file names, never tensors on a device."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    distributed.init_process_group("gloo", timeout=_PATIENCE)
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    finally:
        distributed.destroy_process_group()


def pick_device(name: str | torch.device) -> torch.device:
    """The device by name; ``auto`` is a GPU when there is one, each process of a machine taking its own.

    Raises:
        ConfigError: no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "cuda":
            if device.index is None and "LOCAL_RANK" in os.environ:
                device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
            torch.cuda.set_device(device)  # or the thread that pins memory would use the first one as well
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--device {name}: not usable here ({reason}); try cpu or auto") from None
