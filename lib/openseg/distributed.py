"""One command in several processes, as ``torchrun`` starts them; alone it is a group of one.

The variables of torchrun (RANK, WORLD_SIZE, LOCAL_RANK) are the only environment that the library reads.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, distributed, nn

from openseg.errors import ConfigError, Interrupted, OpensegError

__all__ = [
    "Group",
    "SharedSignal",
    "be_deterministic",
    "end_with_the_others",
    "leave_at_once",
    "pick_device",
    "process_group",
    "set_precision",
]

T = TypeVar("T")
# What is waited for is an update, a listing or a share of a validation.
_PATIENCE = timedelta(hours=2)
_GONE = ("Connection closed", "Connection reset", "Broken pipe", "Socket closed", "remote process exited")
_LOOK_SECONDS = 1.0


class Group(NamedTuple):
    """The processes that share the work."""

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which logs and writes shared files."""
        return self.rank == 0

    def share_of(self, items: Sequence[T]) -> Sequence[T]:
        """The items that are this process's to do; every item is somebody's, and nobody else's."""
        return items[self.rank :: self.world]

    def broadcast(self, value: Any) -> Any:
        """The first process's ``value``, in all of them."""
        if self.world == 1:
            return value
        box = [value]
        with end_with_the_others():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank, in all of them."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        with end_with_the_others():
            distributed.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Return when all processes are here."""
        self.collect(None)

    def share_buffers(self, model: nn.Module) -> None:
        """Give every process the first one's statistics of batch norms, which are the ones that are saved."""
        if self.world > 1:
            with end_with_the_others():
                for buffer in model.buffers():
                    distributed.broadcast(buffer, src=0)

    def mean(self, value: Tensor) -> Tensor:
        """The mean of all processes' tensors, in all of them."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        with end_with_the_others():
            distributed.all_reduce(total)
        return total / self.world

    def gather(self, values: Tensor) -> Tensor:
        """The ``values[N]`` of all processes in one, by rank: ``[world * N]``."""
        if self.world == 1:
            return values
        everywhere = [torch.empty_like(values) for _ in range(self.world)]
        with end_with_the_others():
            distributed.all_gather(everywhere, values.contiguous())
        return torch.cat(everywhere)


class SharedSignal:
    """What any process noticed, known to all of them an iteration later, without one waiting for another."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._flag = torch.zeros((), dtype=torch.int32)
        self._pending: distributed.Work | None = None

    def exchange(self, value: int) -> int:
        """Tell ``value``; returns the largest that anyone told the time before (alone: ``value`` itself)."""
        if self._group.world == 1:
            return value
        told = 0
        with end_with_the_others():
            if self._pending is not None:
                self._pending.wait()
                told = int(self._flag)
            self._flag.fill_(value)
            self._pending = distributed.all_reduce(self._flag, distributed.ReduceOp.MAX, async_op=True)
        return told


@contextlib.contextmanager
def end_with_the_others() -> Iterator[None]:
    """Turns the loss of the connection to another process into ``Interrupted``: that one has said what happened."""
    try:
        yield
    except RuntimeError as error:
        reason = _first_line(error)
        if any(sign in str(error) for sign in _GONE):
            raise Interrupted(f"stopped because another process stopped ({reason})") from error
        if "imed out" in str(error):
            raise OpensegError(f"another process did not answer for {_PATIENCE}; it hangs ({reason})") from error
        raise


@contextlib.contextmanager
def process_group(device: str | torch.device = "cpu") -> Iterator[Group]:
    """The group that torchrun started, whose tensors are on ``device``."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Group()
        return
    # Objects and flags travel over gloo, and tensors on GPUs over NCCL.
    threading.Thread(target=_die_with, args=(os.getppid(),), daemon=True).start()
    nccl = torch.device(device).type == "cuda"
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if nccl else "gloo", timeout=_PATIENCE)
    except RuntimeError as error:
        raise OpensegError(
            f"the rendezvous of the processes failed ({_first_line(error)}); if torchrun had started them "
            "again, set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1, see docs/training.md"
        ) from None
    try:
        yield Group(distributed.get_rank(), distributed.get_world_size())
    except BaseException as error:
        if nccl:  # whose orderly end waits for the other processes, while they wait for this one
            atexit.register(_leave, 130 if isinstance(error, (Interrupted, KeyboardInterrupt)) else 2)
        else:
            distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def leave_at_once(code: int) -> None:
    """Ends a process that torchrun started with an exit code; does nothing in another.

    Threads of gloo may still hold Python objects, which aborts an orderly end now and then.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(code)


def _leave(code: int) -> None:
    """End at once, so that torchrun ends the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _die_with(parent: int) -> None:
    """Processes that survive a killed torchrun would go on writing beside those of the next one."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


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
            if device.index is None:
                device = torch.device("cuda", _own_gpu())
            torch.cuda.set_device(device)  # or the thread that pins memory would use the first one as well
        return device
    except (RuntimeError, AssertionError) as error:
        reason = _first_line(error)
        raise ConfigError(f"--device {name}: not usable here ({reason}); try cpu or auto") from None


def set_precision(device: torch.device, precision: str) -> None:
    """Whether float32 products on a GPU are rounded to TF32, which PyTorch allows convolutions by default."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"


def _own_gpu() -> int:
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(f"there are more processes on this machine than the {count} visible GPUs; use NPROC={count}")
    return number


def be_deterministic() -> None:
    """The same numbers again on the same machine: operations without such a way warn."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
