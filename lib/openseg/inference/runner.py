"""Loop over images: read, compute, write; shared by all prediction commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from openseg.config import Config
from openseg.datasets.loaders import ImageSet, iterate_images
from openseg.distributed import Group
from openseg.errors import OpensegError
from openseg.io.parallel import Writers
from openseg.io.progress import progress

__all__ = ["run_over_images"]

T = TypeVar("T")


def run_over_images(
    config: Config,
    images: Sequence[Path],
    compute: Callable[[dict[str, Any]], T],
    write: Callable[[dict[str, Any], T], None],
    what: str,
    device: torch.device,
    group: Group,
    broken: list[OpensegError] | None = None,
    workers: int | None = None,
) -> None:
    """Run over this process's share of the images, then wait for the other processes.

    Args:
        compute: from an item with ``path``, ``image: uint8[3, H, W]`` and its own ``size``, in this thread.
        write: gets the item and what was computed, in another thread.
        what: names the work in the progress bar.
        broken: takes the errors of images that cannot be read; None raises the first one.
        workers: processes that read; None is ``data.workers``.
    """
    mine = group.share_of(images)
    workers = config.data.workers if workers is None else workers
    items = iterate_images(ImageSet(config, mine), workers, device.type == "cuda", broken)
    with Writers(min(os.cpu_count() or 1, 4)) as writers:
        for item in progress(items, len(mine), what, hidden=not group.first):
            writers.submit(write, item, compute(item))
    group.wait()
