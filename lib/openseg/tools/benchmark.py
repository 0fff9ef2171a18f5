"""Timing of the parts of training and prediction."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from openseg.config import Config
from openseg.datasets.loaders import TrainSet, iterate_training
from openseg.datasets.samples import list_split
from openseg.datasets.transforms import normalize
from openseg.distributed import Group, pick_device
from openseg.errors import ConfigError, OpensegError
from openseg.inference import argmax, from_tensor, resized
from openseg.inference.prepare import prepare_for_inference
from openseg.io.progress import progress as progress_bar
from openseg.io.progress import show_progress
from openseg.labels import IGNORE_INDEX
from openseg.segfix.directions import NUM_DIRECTIONS
from openseg.tools.common import as_config
from openseg.tools.paths import PathLike
from openseg.training.state import build_training
from openseg.training.step import Step, to_device

__all__ = ["PREDICTION", "TRAINING", "benchmark", "random_batches"]

TRAINING = ("load", "transfer", "forward", "loss", "backward", "optimizer")
PREDICTION = ("transfer", "forward", "post")
_MEBI = 2**20


def benchmark(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    iterations: int = 10,
    warm_up: int = 3,
    random_data: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> dict[str, dict[str, float]]:
    """Mean milliseconds of the parts of an update and of a prediction at the size of a training crop.

    What is read ahead by workers is not counted, since it would hide how slowly they read.

    Args:
        config: config, or path of its YAML file.
        overrides: config values to override, as ``key.sub=value``.
        iterations: number of measured iterations.
        warm_up: number of warm-up iterations, not measured.
        random_data: use random images and labels instead of the dataset.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        progress: show progress bars on a terminal.

    Returns:
        Milliseconds of each part and images per second, as plain values.

    Raises:
        OpensegError: numbers that cannot be.
    """
    if iterations < 1 or warm_up < 0:
        raise OpensegError("--iterations must be 1 or more, --warm-up 0 or more")
    with show_progress(progress):
        return _measure(as_config(config, overrides), pick_device(device), iterations, warm_up, random_data)


def _measure(
    config: Config, device: torch.device, iterations: int, warm_up: int, random_data: bool
) -> dict[str, dict[str, float]]:
    if not random_data:
        warm_up = max(warm_up, 2 * config.data.workers + 1)
    count = warm_up + iterations
    train = config.train.model_copy(update={"max_iters": max(count, config.train.max_iters)})
    config = config.model_copy(update={"train": train})
    batches = random_batches(config) if random_data else _batches(config, device)
    training = build_training(config, device, Path())
    step, clock, rounds = Step(training, Group()), _Clock(device), []
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    items = to_device(batches, device)
    for _ in progress_bar(range(count), count, "train"):
        clock.start()
        batch = next(items)
        clock.mark("load")
        step(batch, clock.mark)
        training.iteration += 1
        rounds.append(clock.seconds)
    results = {"training": _means(rounds[warm_up:], TRAINING, train.batch_size)}
    if device.type == "cuda":
        results["training"]["peak MiB"] = torch.cuda.max_memory_allocated(device) / _MEBI
    rounds = list(_predict(config, training.model, batch["image"][:1].cpu(), device, count))
    results["prediction"] = _means(rounds[warm_up:], PREDICTION, 1)
    return results


class _Clock:
    """Seconds between marks, by name; waits for the device at each, so the parts of a GPU's work are told apart."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.start()

    def start(self) -> None:
        self.seconds = {}
        self._last = time.perf_counter()

    def mark(self, name: str) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def _batches(config: Config, device: torch.device) -> Iterator[dict[str, Tensor]]:
    dataset = TrainSet(config, list_split(config, config.data.train_split))
    return iterate_training(dataset, 0, device.type == "cuda")


def random_batches(config: Config) -> Iterator[dict[str, Tensor]]:
    """The same batch of noise again and again; a tenth of its pixels is ignored."""
    rng = torch.Generator().manual_seed(0)
    size = (config.train.batch_size, *config.augment.crop_size)

    def labels(classes: int) -> Tensor:
        values = torch.randint(0, classes, size, generator=rng, dtype=torch.uint8)
        return torch.where(torch.rand(size, generator=rng) < 0.1, torch.tensor(IGNORE_INDEX, dtype=torch.uint8), values)

    info = config.dataset_info
    shape = (size[0], info.channels, *size[1:])
    pixels = torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)
    batch = {
        "image": torch.randn(shape, generator=rng) if info.bands else pixels,
        "window": torch.tensor([[0, 0, *size[1:]]] * size[0]),
    }
    if config.needs_targets:
        batch |= {"mask": labels(2), "direction": labels(NUM_DIRECTIONS)}
    else:
        batch["label"] = labels(len(config.dataset_info.classes))
        if config.needs_coarse:
            batch["coarse"] = labels(len(config.dataset_info.classes))
    while True:
        yield batch


@torch.inference_mode()
def _predict(
    config: Config, model: torch.nn.Module, image: Tensor, device: torch.device, count: int
) -> Iterator[dict[str, float]]:
    if config.test.precision == "auto":
        raise ConfigError("benchmark measures test.precision=fp32 or bf16, not auto")
    dtype = torch.bfloat16 if config.test.precision == "bf16" else torch.float32
    model = prepare_for_inference(model.eval(), dtype)
    clock, size = _Clock(device), (image.shape[-2], image.shape[-1])
    for _ in progress_bar(range(count), count, "predict"):
        clock.start()
        images = normalize(image.to(device), config.normalization)
        clock.mark("transfer")
        output = model(images, aux=False) if config.predicts_labels else model(images)
        clock.mark("forward")
        if not config.needs_coarse:
            output = output.logits if config.predicts_labels else output.direction_logits
        argmax(resized(from_tensor(output.float()), size)).cpu()
        clock.mark("post")
        yield clock.seconds


def _means(rounds: list[dict[str, float]], names: tuple[str, ...], images: int) -> dict[str, float]:
    """Milliseconds of each part, and images a second."""
    parts = {name: 1000 * statistics.fmean(each.get(name, 0.0) for each in rounds) for name in names}
    return {"images/s": 1000 * images / sum(parts.values()), **parts}
