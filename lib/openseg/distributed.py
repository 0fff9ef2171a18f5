"""Distributed execution under ``torchrun``; without it, a group of one process.

torchrun's variables (RANK, WORLD_SIZE, LOCAL_RANK) are read here alone.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import platform
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
    "has_bfloat16",
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
        """Return this process's items; the shares of all processes are disjoint and complete."""
        return items[self.rank :: self.world]

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's ``value`` in every process."""
        if self.world == 1:
            return value
        box = [value]
        with end_with_the_others():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def collect(self, value: Any) -> list[Any]:
        """Return the values of all processes, by rank, in every process."""
        if self.world == 1:
            return [value]
        box: list[Any] = [None] * self.world
        with end_with_the_others():
            distributed.all_gather_object(box, value)
        return box

    def wait(self) -> None:
        """Wait for all processes (barrier)."""
        self.collect(None)

    def share_buffers(self, model: nn.Module) -> None:
        """Broadcast rank 0's batch norm statistics, which are the saved ones."""
        if self.world > 1:
            with end_with_the_others():
                for buffer in model.buffers():
                    distributed.broadcast(buffer, src=0)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over all processes, in every process."""
        if self.world == 1:
            return value
        total = value.detach().clone()
        with end_with_the_others():
            distributed.all_reduce(total)
        return total / self.world

    def gather(self, values: Tensor) -> Tensor:
        """Concatenate ``values[N]`` of all processes by rank, ``[world * N]``."""
        if self.world == 1:
            return values
        everywhere = [torch.empty_like(values) for _ in range(self.world)]
        with end_with_the_others():
            distributed.all_gather(everywhere, values.contiguous())
        return torch.cat(everywhere)


class SharedSignal:
    """A flag of any process, known to all one iteration later without blocking."""

    def __init__(self, group: Group) -> None:
        self._group = group
        self._flag = torch.zeros((), dtype=torch.int32)
        self._pending: distributed.Work | None = None

    def exchange(self, value: int) -> int:
        """Send ``value``; return the maximum over processes of the previous call (single process: ``value``)."""
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
    """Convert connection errors into ``Interrupted``, since the failed process reports its own error."""
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
    """Join the process group started by torchrun, with tensors on ``device``."""
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
    """Exit a process started by torchrun immediately; does nothing otherwise.

    Gloo threads may still hold Python objects, which sometimes aborts a normal exit.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        _leave(code)


def _leave(code: int) -> None:
    """Exit immediately, so that torchrun stops the others."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _die_with(parent: int) -> None:
    """Ask the kernel to end this process with torchrun; it would otherwise write beside the next run."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    os._exit(1)


def pick_device(name: str | torch.device) -> torch.device:
    """Return a device by name; ``auto`` is a GPU if available, one per process of a machine.

    Raises:
        ConfigError: the device does not exist.
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
    """Allow or forbid TF32 in float32 products on GPUs; PyTorch allows it for convolutions by default."""
    if device.type == "cuda":
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision != "fp32"


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device has instructions for bfloat16; unknown of CPUs other than x86, where it is assumed."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    checks = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    if platform.machine().lower() not in ("x86_64", "amd64") or None in checks:
        return True
    return any(check() for check in checks if check is not None)


def _own_gpu() -> int:
    number, count = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if number >= count:
        raise ConfigError(f"there are more processes on this machine than the {count} visible GPUs; use NPROC={count}")
    return number


def be_deterministic() -> None:
    """Use deterministic algorithms; operations without one warn."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True, warn_only=True)
