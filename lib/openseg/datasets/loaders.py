"""Datasets and data loaders for training, validation and prediction.

The training stream is a pure function of (seed, draw): draw ``n`` is image ``permutation(seed, epoch)[n mod size]``
augmented with random numbers from ``(seed, n)``. Draw ``n`` is the same sample for any number of workers and after
any resume, and resuming reads no samples only to skip them.
"""

from __future__ import annotations

import functools
import os
import pickle
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Subset

from openseg.config import Config
from openseg.datasets.augmentations import Sample, paste
from openseg.datasets.degradation import degraded
from openseg.datasets.features import FeatureStore
from openseg.datasets.frequency import rare_classes
from openseg.datasets.samples import Samples
from openseg.datasets.splits import Pair
from openseg.datasets.transforms import at_progress, augment, fit_image
from openseg.errors import ConfigError, OpensegError
from openseg.segfix.targets import Targets

__all__ = ["ImageSet", "TrainSet", "ValSet", "draws_of", "iterate_images", "iterate_training"]


_COPY_PASTE = 1  # a stream of random numbers of its own


class _Guarded(Dataset):
    """Returns an ``OpensegError`` as a value; raised, it would reach the parent as text with a worker's traceback."""

    def __getitem__(self, index: int) -> Any:
        try:
            return self.load(index)
        except OpensegError as error:
            return error

    def load(self, index: int) -> dict[str, Any]:
        raise NotImplementedError


class _Packed(Sequence[Pair]):
    """Pairs as bytes in one array; millions of objects would be copied into every worker by reference counting."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        packed = [pickle.dumps(pair, protocol=pickle.HIGHEST_PROTOCOL) for pair in pairs]
        self._ends = np.cumsum([0, *map(len, packed)])
        self._bytes = np.frombuffer(b"".join(packed), np.uint8)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Pair:  # type: ignore[override]
        return pickle.loads(self._bytes[self._ends[index] : self._ends[index + 1]].tobytes())


def _has_coarse(config: Config) -> bool:
    return config.data.predictions is not None or any(term.type == "degrade" for term in config.augment.transforms)


class TrainSet(_Guarded):
    """Training samples by draw number; with ``features``, those of a frozen backbone in place of images."""

    def __init__(self, config: Config, pairs: Sequence[Pair], features: FeatureStore | None = None) -> None:
        self.config = config
        self.pairs = _Packed(pairs)
        self.samples = Samples(config)
        self.features = features
        if config.needs_coarse and not _has_coarse(config):
            raise ConfigError(
                "a refiner learns from a model's labels or from ground truth with errors; set data.predictions, or add "
                "{type: degrade} to augment.transforms"
            )
        info = self.samples.dataset_info
        self._flipped = info.flipped_classes if info.flip_pairs else None
        self._rare = rare_classes(config) if config.augment.copy_paste else None

    def pair_of(self, draw: int) -> Pair:
        """Return the pair of a draw."""
        epoch, position = divmod(draw, len(self.pairs))
        return self.pairs[_permutation(self.config.train.seed, epoch, len(self.pairs))[position]]

    def load(self, index: int) -> dict[str, Any]:
        seed, pair = self.config.train.seed, self.pair_of(index)
        if self.features is not None:
            return self._with_features(index, pair, self.features)
        sample = self._augmented(pair, index, (seed, index))
        if self._rare is not None:
            rng = np.random.default_rng([seed, index, _COPY_PASTE])
            if rng.random() < self.config.augment.copy_paste:
                other = self.pairs[int(rng.integers(len(self.pairs)))]
                paste(sample, self._augmented(other, index, (seed, index, _COPY_PASTE)), self._rare)
        item: dict[str, Any] = {"image": sample.image.transpose(2, 0, 1), "window": np.array(sample.window)}
        if not self.samples.with_targets:
            item["label"] = sample.maps["label"]
            if self.samples.with_coarse:
                item["coarse"] = sample.maps["coarse"]
        else:
            targets = Targets(sample.maps["depth"], sample.maps["angle_code"])
            item["mask"], item["direction"] = targets.mask_and_direction(
                sample.maps["label"], self.config.segfix.max_distance
            )
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in item.items()}

    def _augmented(self, pair: Pair, draw: int, seeds: Sequence[int]) -> Sample:
        image, label = self.samples.pair(pair)
        maps = {"label": label}
        if self.samples.with_targets:
            targets = self.samples.targets(pair, label)
            maps |= {"depth": targets.depth, "angle_code": targets.angle_code}
        if pair.prediction is not None:
            maps["coarse"] = self.samples.prediction(pair, label)
        train = self.config.train
        how = at_progress(self.config.augment, draw // train.batch_size / train.max_iters)
        return augment(image, maps, how, seeds, self.config.data, self._flipped)

    def _with_features(self, index: int, pair: Pair, features: FeatureStore) -> dict[str, Any]:
        label = self.samples.label(pair)
        stand_in = np.zeros((*label.shape, 1), np.uint8)
        seeds = self.config.train.seed, index
        sample = augment(stand_in, {"label": label}, self.config.augment, seeds, self.config.data, self._flipped)
        item = {"features": features.read(pair.image, sample.mirrored), "label": sample.maps["label"]}
        return {key: torch.from_numpy(np.ascontiguousarray(value)) for key, value in item.items()}


@functools.lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, size: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch, size]).permutation(size)


class ValSet(_Guarded):
    """Whole images, resized as configured, with train IDs at the original size, in order.

    For SegFix: one fixed crop of each image with its ground truth. For a refiner: with labels to refine, ``coarse``.
    """

    def __init__(self, config: Config, pairs: Sequence[Pair]) -> None:
        self.config = config
        self.pairs = pairs
        self.samples = Samples(config)

    def __len__(self) -> int:
        return len(self.pairs)

    def load(self, index: int) -> dict[str, Any]:
        pair = self.pairs[index]
        image, label = self.samples.pair(pair)
        label = np.array(label)
        if not self.samples.with_targets:
            item = {"pair": pair, "image": _fitted(image, self.config), "label": label}
            return item | {"coarse": self._coarse(index, label)} if self.samples.with_coarse else item
        area = self._crop(index, label.shape)
        targets = self.samples.targets(pair, label)
        targets = Targets(targets.depth[area], targets.angle_code[area])
        mask, direction = targets.mask_and_direction(label[area], self.config.segfix.max_distance)
        fitted = _fitted(image[area], self.config)
        return {"pair": pair, "image": fitted, "label": label[area], "mask": mask, "direction": direction}

    def _coarse(self, index: int, label: np.ndarray) -> np.ndarray:
        """Labels to refine: a prediction, or the ground truth with errors that depend only on the image's index."""
        pair = self.pairs[index]
        if pair.prediction is not None:
            return np.array(self.samples.prediction(pair, label))
        return degraded(label, np.random.default_rng(index))

    def _crop(self, index: int, size: tuple[int, int]) -> tuple[slice, slice]:
        """Return a region of the training crop's size, at a position that depends only on the image's index."""
        rng = np.random.default_rng(index)
        scale = min(self.config.test.ss.scales)
        lengths = [
            min(length, int(-(-crop // scale)))
            for length, crop in zip(size, self.config.augment.crop_size, strict=True)
        ]
        starts = [int(rng.integers(0, length - kept + 1)) for length, kept in zip(size, lengths, strict=True)]
        rows, columns = (slice(start, start + int(kept)) for start, kept in zip(starts, lengths, strict=True))
        return rows, columns


class ImageSet(_Guarded):
    """Images without labels, resized as configured, with their original (height, width), in order."""

    def __init__(self, config: Config, paths: Sequence[Path]) -> None:
        self.config = config
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def load(self, index: int) -> dict[str, Any]:
        image = self.config.dataset_info.read_image(self.paths[index])
        return {"path": self.paths[index], "image": _fitted(image, self.config), "size": image.shape[:2]}


def _fitted(image: np.ndarray, config: Config) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(fit_image(image, config.data).transpose(2, 0, 1)))


def _init_worker(_: int) -> None:
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        getattr(signal, "SIGUSR1", signal.SIGTERM),
    ):  # signals reach the whole process group; the parent handles them
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _collate(items: list[Any]) -> Any:
    for item in items:
        if isinstance(item, OpensegError):
            return item
    return torch.utils.data.default_collate(items)


def _first(items: list[Any]) -> Any:
    return items[0]


def _iterate(loader: DataLoader, broken: list[OpensegError] | None = None) -> Iterator[dict[str, Any]]:
    try:
        # A for loop lets go of its iterator when an error passes; a variable would keep the workers with the traceback.
        for batch in loader:
            if not isinstance(batch, OpensegError):
                yield batch
            elif broken is None:
                raise batch
            else:
                broken.append(batch)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise OpensegError(
            "a process that reads samples died, perhaps out of memory or of shared memory (/dev/shm); use fewer "
            "data.workers, 0 reads in the main process"
        ) from None


def _loader(dataset: Dataset, workers: int, pin: bool, **options: Any) -> DataLoader:
    # A separate generator: a new iterator would otherwise draw from torch's global one and change the training.
    return DataLoader(
        dataset,
        num_workers=min(workers, os.cpu_count() or 1),
        pin_memory=pin,
        worker_init_fn=_init_worker,
        generator=torch.Generator().manual_seed(0),
        **options,
    )


def draws_of(iteration: int, batch_size: int, rank: int = 0, world: int = 1) -> range:
    """Return the draws of one process in an iteration; all processes together cover the batch, in order."""
    share = batch_size // world
    first = iteration * batch_size + rank * share
    return range(first, first + share)


def iterate_training(
    dataset: TrainSet, start_iteration: int, pin: bool, rank: int = 0, world: int = 1
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield one process's part of the batches of iterations ``start_iteration .. max_iters - 1``.

    Raises:
        OpensegError: an error of a sample, raised in the calling process.
    """
    train, workers = dataset.config.train, dataset.config.data.workers
    draws = (draws_of(each, train.batch_size, rank, world) for each in range(start_iteration, train.max_iters))
    return _iterate(_loader(dataset, workers, pin, batch_sampler=draws, collate_fn=_collate))


def iterate_images(
    dataset: ValSet | ImageSet | Subset, workers: int, pin: bool, broken: list[OpensegError] | None = None
) -> Iterator[dict[str, Any]]:
    """Yield the items of ``dataset``, decoded ahead by workers.

    Errors of unreadable items are added to ``broken``, or raised if it is None.
    """
    return _iterate(_loader(dataset, workers, pin, batch_size=1, shuffle=False, collate_fn=_first), broken)
