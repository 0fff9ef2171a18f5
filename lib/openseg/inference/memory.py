"""Memory limit, for an error instead of being killed by Linux when memory runs out."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

__all__ = ["limit_memory"]


@contextlib.contextmanager
def limit_memory(processes: int = 1) -> Iterator[None]:
    """Make allocations beyond this process's share of free memory fail, so that callers can handle it.

    On Linux only, including limits of containers.
    """
    try:
        import resource

        free = _free_memory() // processes
        used = 1024 * _number("/proc/self/status", "VmData")
    except (ImportError, OSError, TypeError):  # another system
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    bounds = [used + free, *(limit for limit in before if limit >= 0)]
    resource.setrlimit(resource.RLIMIT_DATA, (min(bounds), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _free_memory() -> int:
    """Return the available memory in bytes, up to the container's limit."""
    free = 1024 * _number("/proc/meminfo", "MemAvailable")
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError, TypeError):  # not in a group, or one without a limit
        limit, taken = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - taken + _number(group / "memory.stat", "inactive_file"))
    return free


def _number(path: str | Path, name: str) -> int:
    """Read the number after a name in a system file."""
    match = re.search(rf"^{name}:?\s+(\d+)", Path(path).read_text(), re.MULTILINE)
    if match is None:
        raise TypeError(f"{path} does not say {name}")
    return int(match[1])
