"""One thread that predicts what many requests ask for, images of one size together."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
import torch

from openseg.datasets.transforms import fit_image
from openseg.inference.predictor import Predictor

__all__ = ["Batcher", "Full"]


class Full(Exception):
    """As many images wait as may wait."""


class _Job(NamedTuple):
    planes: torch.Tensor
    size: tuple[int, int]
    labels: Future[np.ndarray]

    @property
    def kind(self) -> tuple[object, ...]:
        """What images must share to be predicted together."""
        return self.planes.shape, self.planes.dtype, self.size


class Batcher:
    """``submit(image)`` gives a future of its train IDs; use as a context manager.

    Images that come while others are predicted wait; then the first of them and those of its size are the next batch.
    """

    def __init__(self, predictor: Predictor, max_batch: int, max_waiting: int) -> None:
        self._predictor, self._max_batch, self._max_waiting = predictor, max_batch, max_waiting
        self._waiting: deque[_Job] = deque()
        self._changed, self._closed = threading.Condition(), False
        self._thread = threading.Thread(target=self._run, name="predict", daemon=True)
        self.done = self.batches = 0

    def __enter__(self) -> Batcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=10)

    @property
    def waiting(self) -> int:
        """Number of images that wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether it still predicts."""
        return self._thread.is_alive()

    def submit(self, image: np.ndarray) -> Future[np.ndarray]:
        """A future of the train IDs ``uint8[H, W]`` of ``image: [H, W, C]``, which may be cancelled.

        Raises:
            Full: too many wait.
        """
        fitted = fit_image(image, self._predictor.config.data)
        planes = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
        job = _Job(planes, (image.shape[0], image.shape[1]), Future())
        with self._changed:
            self._waiting = deque(each for each in self._waiting if not each.labels.cancelled())
            if len(self._waiting) >= self._max_waiting:
                raise Full
            self._waiting.append(job)
            self._changed.notify()
        return job.labels

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
                batch = self._next()
            self._predict([job for job in batch if job.labels.set_running_or_notify_cancel()])

    def _next(self) -> list[_Job]:
        """Take the first one, and others like it."""
        kind = self._waiting[0].kind
        batch = [job for job in self._waiting if job.kind == kind][: self._max_batch]
        taken = set(map(id, batch))
        self._waiting = deque(job for job in self._waiting if id(job) not in taken)
        return batch

    def _predict(self, batch: list[_Job]) -> None:
        if not batch:
            return
        try:
            labels = self._predictor.predict_batch(torch.stack([job.planes for job in batch]), batch[0].size)
        except Exception as error:  # told to the one who asked; the next ones may succeed
            if len(batch) == 1:
                batch[0].labels.set_exception(error)
            else:
                for job in batch:  # one of them may be to blame, or there is memory for one at a time
                    self._predict([job])
            return
        self.batches += 1
        self.done += len(batch)
        for job, each in zip(batch, labels, strict=True):
            job.labels.set_result(each)
