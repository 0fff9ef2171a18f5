"""The training loop: iterations, a polynomial schedule, checkpoints that resume bit for bit."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from openseg.config import Experiment
from openseg.data.check import quick_check
from openseg.data.folder import Pair, list_split
from openseg.data.loaders import TrainSet, ValSet, iterate_training
from openseg.data.transforms import fit_image, normalize
from openseg.engine.checkpoints import best_path, latest_path
from openseg.engine.evaluate import evaluate_network
from openseg.engine.state import Training, build_training, read_resumable
from openseg.errors import CheckpointError, Interrupted, OpensegError
from openseg.inference import predict_labels
from openseg.losses import build_loss
from openseg.models.weights import compare_classes, fit_experiment, load_backbone, load_weights, read_checkpoint

__all__ = ["poly_lr", "train"]

logger = logging.getLogger("openseg")

_PANELS = 4


def poly_lr(iteration: int, max_iters: int, power: float, warmup_iters: int = 0) -> float:
    """Factor of the base learning rate at an iteration, counted from 0, with a linear warm-up."""
    warmup = min((iteration + 1) / warmup_iters, 1.0) if warmup_iters else 1.0
    return warmup * (1 - iteration / max_iters) ** power


def _require_new(experiment: Experiment, root: Path) -> None:
    """Raises CheckpointError where a new training would overwrite something."""
    for path in (latest_path(experiment, root), best_path(experiment, root)):
        if path.exists():
            raise CheckpointError(
                f"{path}: is there already and this training did not write it; use another name, resume it, or move "
                "it away"
            )


@contextmanager
def _stop_on_signal() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in the middle of an update; a second one acts as usual."""
    received: list[int] = []
    previous = {}

    def remember(number: int, _: object) -> None:
        received.append(number)
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.signal(number, remember)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def train(
    experiment: Experiment,
    device: torch.device,
    checkpoint_root: Path = Path("checkpoints"),
    run_dir: Path | None = None,
    resume: bool = False,
    weights: Path | None = None,
    partial: bool = False,
) -> Training:
    """Train an experiment to its last iteration, validating and saving on the way.

    Args:
        run_dir: where TensorBoard events go; None writes none.
        resume: continue from ``<name>_latest.pth``; on a CPU the result equals an uninterrupted run bit for bit.
        weights: a checkpoint of any layout to start from (fine-tuning).
        partial: take of ``weights`` what fits this network.

    Raises:
        CheckpointError: nothing to resume, something would be overwritten, or weights that do not fit.
        DataError: the data set is missing or broken.
        Interrupted: a signal came; the state was saved first.
    """
    latest = latest_path(experiment, checkpoint_root)
    if resume and not latest.is_file():
        raise CheckpointError(f"{latest}: nothing to resume from; start with train")
    if not resume:
        _require_new(experiment, checkpoint_root)
    data = experiment.data
    pairs = {split: list_split(experiment, split) for split in (data.train_split, data.val_split)}
    for split in pairs:
        quick_check(experiment, pairs[split])
    checkpoint = None
    if resume:
        checkpoint, experiment = read_resumable(latest, experiment)
    elif weights is not None:
        checkpoint = read_checkpoint(weights)
        compare_classes(experiment, checkpoint)
        experiment = fit_experiment(experiment, checkpoint)
    training = build_training(experiment, device, checkpoint_root)
    if checkpoint is not None and resume:
        training.restore(checkpoint)
        logger.info("resumed %s at iteration %d", latest, training.iteration)
    elif checkpoint is not None:
        logger.info("%s: %s", weights, load_weights(training.model, checkpoint, partial))
    elif experiment.model.pretrained is not None:
        report = load_backbone(training.model.backbone, experiment.model.pretrained)
        logger.info("%s: %s", experiment.model.pretrained, report)
    if training.finished and not training.validation_due:
        logger.info("%s: training is complete (%d iterations)", experiment.name, training.iteration)
        return training
    dataset = TrainSet(experiment, pairs[data.train_split])
    if data.cache_gb:
        dataset.samples.cache.recount()
    with _writer(run_dir, training.iteration) as writer, _stop_on_signal() as received:
        run = _Run(training, pairs[data.val_split], writer, received)
        run.validate_if_due()  # the checkpoint may be of just before a validation
        run.loop(dataset)
    return training


@contextmanager
def _writer(run_dir: Path | None, iteration: int) -> Iterator[SummaryWriter | None]:
    if run_dir is None:
        yield None
        return
    try:
        writer = SummaryWriter(str(run_dir), purge_step=iteration + 1)
    except OSError as error:
        raise OpensegError(f"cannot write TensorBoard events to {run_dir} ({error.strerror or error})") from error
    try:
        yield writer
    finally:
        writer.close()


@dataclass
class _Run:
    """One call of ``train``: the loop and what it reports to."""

    training: Training
    val_pairs: list[Pair]
    writer: SummaryWriter | None
    received: list[int]

    def loop(self, dataset: TrainSet) -> None:
        training, config = self.training, self.training.experiment.train
        loss_function = build_loss(training.experiment, training.device)
        bar = tqdm(
            iterate_training(dataset, training.iteration, training.device.type == "cuda"),
            total=config.max_iters,
            initial=training.iteration,
            desc=training.experiment.name,
            disable=None,
            dynamic_ncols=True,
        )
        since, last = time.perf_counter(), training.iteration
        for batch in bar:
            training.model.train()
            terms = _update(training, batch, loss_function)
            training.iteration += 1
            if training.iteration % config.log_interval == 0 or training.finished:
                speed = (training.iteration - last) / (time.perf_counter() - since)
                _log(training, {name: value.item() for name, value in terms.items()}, speed, bar, self.writer)
                since, last = time.perf_counter(), training.iteration
            if training.iteration % config.save_interval == 0 or training.validation_due or self.received:
                training.save()
            self._stop_if_asked()
            if self.validate_if_due():
                since, last = time.perf_counter(), training.iteration

    def _stop_if_asked(self) -> None:
        if self.received:
            raise Interrupted(
                f"stopped by {signal.Signals(self.received[0]).name} at iteration {self.training.iteration} of "
                f"{self.training.experiment.train.max_iters}; the state is saved, continue with resume"
            )

    def validate_if_due(self) -> bool:
        """Validate where the schedule says so, keep the best, and save that it was done."""
        training = self.training
        if not training.validation_due:
            return False
        scores, criterion = evaluate_network(training.model, training.experiment, self.val_pairs, training.device)
        training.scores, training.validated = scores, training.iteration
        text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
        logger.info("%s  validation at %d:  %s", training.experiment.name, training.iteration, text)
        if self.writer is not None:
            for name, value in scores.items():
                self.writer.add_scalar(f"val/{name}", value, training.iteration)
            if training.experiment.task == "semantic":
                _write_panels(training, self.val_pairs, self.writer)
        if criterion > training.best:
            training.best = criterion
            training.save_best()
        training.save()
        self._stop_if_asked()
        return True


def _update(training: Training, batch: dict[str, torch.Tensor], loss_function: Any) -> dict[str, torch.Tensor]:
    experiment, device = training.experiment, training.device
    windows = batch["window"]  # stays on the CPU: reading it there waits for nothing
    batch = {key: value.to(device, non_blocking=True) for key, value in batch.items() if key != "window"}
    images = normalize(batch["image"], experiment.normalization, windows)
    if experiment.train.channels_last:
        images = images.to(memory_format=torch.channels_last)
    factor = poly_lr(
        training.iteration, experiment.train.max_iters, experiment.train.poly_power, experiment.train.warmup_iters
    )
    for group in training.optimizer.param_groups:
        group["lr"] = experiment.train.lr * group["multiplier"] * factor
    with torch.autocast(device.type, torch.bfloat16, enabled=experiment.train.precision == "bf16"):
        output = training.model(images)
    terms = loss_function(output, batch)
    training.optimizer.zero_grad(set_to_none=True)
    terms["loss"].backward()
    training.optimizer.step()
    return terms


def _log(training: Training, terms: dict[str, float], speed: float, bar: tqdm, writer: SummaryWriter | None) -> None:
    text = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
    if bar.disable:
        config = training.experiment.train
        logger.info(
            "%s  %d/%d  %s  %.2f it/s", training.experiment.name, training.iteration, config.max_iters, text, speed
        )
    else:
        bar.set_postfix_str(text)
    if writer is not None:
        for name, value in terms.items():
            writer.add_scalar(f"train/{name}", value, training.iteration)
        writer.add_scalar("train/lr", training.optimizer.param_groups[0]["lr"], training.iteration)
        writer.add_scalar("train/iterations_per_second", speed, training.iteration)


@torch.inference_mode()
def _write_panels(training: Training, pairs: list[Pair], writer: SummaryWriter) -> None:
    """A few validation images with their truth and prediction, side by side."""
    catalog = training.experiment.catalog
    dataset = ValSet(training.experiment, pairs[:: max(len(pairs) // _PANELS, 1)][:_PANELS])
    for index in range(len(dataset)):
        item = dataset.load(index)
        image = item["image"][None].to(training.device)
        labels = predict_labels(training.model, image, training.experiment, "ss", item["label"].shape)[0].cpu().numpy()
        panels = [catalog.colorize(values) for values in (item["label"], labels)]
        panels = [fit_image(panel, training.experiment.data) for panel in panels]
        row = torch.cat([item["image"], *[torch.from_numpy(x.transpose(2, 0, 1)) for x in panels]], dim=2)
        writer.add_image(f"val/{item['pair'].key}", row, training.iteration)
