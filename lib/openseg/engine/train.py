"""The training loop: iterations, a polynomial schedule, checkpoints that resume bit for bit."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from openseg.catalog import get_catalog
from openseg.config import Experiment
from openseg.data.folder import Pair, list_pairs
from openseg.data.loaders import TrainSet, ValSet, check_pairs, iterate_training
from openseg.data.transforms import normalize
from openseg.engine.checkpoints import best_path, latest_path, save_checkpoint
from openseg.engine.evaluate import evaluate_network
from openseg.errors import CheckpointError, DataError, Interrupted, OpensegError
from openseg.inference import predict_labels
from openseg.losses import build_loss
from openseg.models import build_model
from openseg.models.weights import load_backbone, load_weights, read_checkpoint
from openseg.segfix.targets import GENERATOR

__all__ = ["Training", "poly_lr", "train"]

logger = logging.getLogger("openseg")

_PANELS = 4


def poly_lr(iteration: int, max_iters: int, power: float, warmup_iters: int = 0) -> float:
    """Factor of the base learning rate at an iteration, counted from 0, with a linear warm-up."""
    warmup = min((iteration + 1) / warmup_iters, 1.0) if warmup_iters else 1.0
    return warmup * (1 - iteration / max_iters) ** power


@dataclass
class Training:
    """What a run consists of; ``iteration`` counts the updates that were made."""

    experiment: Experiment
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    checkpoint_root: Path
    iteration: int = 0
    best: float = float("-inf")
    scores: dict[str, float] = field(default_factory=dict)

    def content(self) -> dict[str, Any]:
        """Everything that a resumed run needs to go on as if it had not stopped."""
        rng = {"cpu": torch.get_rng_state()}
        if self.device.type == "cuda":
            rng["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "weights": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration,
            "best": self.best,
            "scores": self.scores,
            "rng": rng,
            "experiment": self.experiment.dump(),
        }

    def save(self) -> None:
        save_checkpoint(latest_path(self.experiment, self.checkpoint_root), self.content())

    def save_best(self) -> None:
        save_checkpoint(best_path(self.experiment, self.checkpoint_root), self.content())

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint of the same experiment.

        Raises:
            CheckpointError: the file holds weights only, or belongs to another network.
        """
        checkpoint = read_checkpoint(path)
        content = checkpoint.content
        if "optimizer" not in content:
            raise CheckpointError(
                f"{path}: holds weights only, no optimizer state to resume from; "
                f"to fine-tune it, move it away and pass --weights {path.name} to train"
            )
        load_weights(self.model, checkpoint)
        self.optimizer.load_state_dict(content["optimizer"])
        self.iteration, self.best, self.scores = content["iteration"], content["best"], content["scores"]
        torch.set_rng_state(content["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in content["rng"]:
            torch.cuda.set_rng_state(content["rng"]["cuda"], self.device)


def _build(experiment: Experiment, device: torch.device, checkpoint_root: Path) -> Training:
    torch.manual_seed(experiment.train.seed)
    model = build_model(experiment).to(device)
    if experiment.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    config = experiment.train
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
    for name, parameter in model.named_parameters():
        groups["backbone" if name.startswith("backbone.") else "head"].append(parameter)
    multipliers = {"backbone": 1.0, "head": config.head_lr_multiplier}
    optimizer = torch.optim.SGD(
        [{"params": groups[name], "multiplier": multipliers[name]} for name in groups],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    return Training(experiment, model, optimizer, device, checkpoint_root)


def _targets_dir(experiment: Experiment, split: str) -> Path | None:
    if experiment.task != "segfix":
        return None
    folder = experiment.data_dir / split / experiment.data.offset_gt
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no SegFix ground truth; make it with python {GENERATOR} --datadir {experiment.data_dir} "
            f"--split {split} --dataset {experiment.data.dataset}"
        )
    return folder


def _resume_path(path: Path, resume: bool) -> Path | None:
    """Whether to resume, and from where.

    Raises:
        CheckpointError: nothing to resume from, or a new training would overwrite what is there.
    """
    if resume and not path.is_file():
        raise CheckpointError(f"{path}: nothing to resume from; start with train")
    if not resume and path.exists():
        raise CheckpointError(
            f"{path}: is there already and this training did not write it; use another name, resume it, or move it away"
        )
    return path if resume else None


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
) -> Training:
    """Train an experiment to its last iteration, validating and saving on the way.

    Args:
        run_dir: where TensorBoard events go; None writes none.
        resume: continue from ``<name>_latest.pth``; on a CPU the result equals an uninterrupted run bit for bit.
        weights: a checkpoint of any layout to start from (fine-tuning).

    Raises:
        CheckpointError: see ``_resume_path``; or weights that do not fit.
        DataError: the data set is missing or broken.
        Interrupted: a signal came; the state was saved first.
    """
    latest = _resume_path(latest_path(experiment, checkpoint_root), resume)
    config = experiment.train
    train_pairs = list_pairs(experiment.data_dir / experiment.data.train_split)
    val_pairs = list_pairs(experiment.data_dir / experiment.data.val_split)
    for pairs in (train_pairs, val_pairs):
        check_pairs(pairs, get_catalog(experiment.data.dataset))
    targets = {
        split: _targets_dir(experiment, split) for split in (experiment.data.train_split, experiment.data.val_split)
    }
    training = _build(experiment, device, checkpoint_root)
    if latest is not None:
        training.restore(latest)
        logger.info("resumed %s at iteration %d", latest, training.iteration)
    elif weights is not None:
        logger.info("%s: %s", weights, load_weights(training.model, read_checkpoint(weights)))
    elif experiment.model.pretrained is not None:
        report = load_backbone(training.model.backbone, experiment.model.pretrained)
        logger.info("%s: %s", experiment.model.pretrained, report)
    if training.iteration >= config.max_iters:
        logger.info("%s: training is complete (%d iterations)", experiment.name, training.iteration)
        return training
    dataset = TrainSet(experiment, train_pairs, targets[experiment.data.train_split])
    writer = SummaryWriter(str(run_dir), purge_step=training.iteration) if run_dir is not None else None
    try:
        _loop(training, dataset, val_pairs, targets[experiment.data.val_split], writer)
    finally:
        if writer is not None:
            writer.close()
    return training


def _loop(
    training: Training, dataset: TrainSet, val_pairs: list[Pair], val_targets: Path | None, writer: SummaryWriter | None
) -> None:
    config = training.experiment.train
    loss_function = build_loss(training.experiment, training.device)
    batches = iterate_training(dataset, training.iteration, training.device.type == "cuda")
    bar = tqdm(
        batches,
        total=config.max_iters,
        initial=training.iteration,
        desc=training.experiment.name,
        disable=None,
        dynamic_ncols=True,
    )
    since, last = time.perf_counter(), training.iteration
    with _stop_on_signal() as received:
        for batch in bar:
            training.model.train()
            terms = _update(training, batch, loss_function)
            training.iteration += 1
            done = training.iteration == config.max_iters
            if training.iteration % config.log_interval == 0 or done:
                speed = (training.iteration - last) / (time.perf_counter() - since)
                _log(training, {name: value.item() for name, value in terms.items()}, speed, bar, writer)
                since, last = time.perf_counter(), training.iteration
            if (training.iteration % config.val_interval == 0 or done) and not received:
                _validate(training, val_pairs, val_targets, writer)
                since, last = time.perf_counter(), training.iteration
            if training.iteration % config.save_interval == 0 or done or received:
                _require_finite(training, terms)
                training.save()
            if received and not done:
                raise Interrupted(
                    f"stopped by {signal.Signals(received[0]).name} at iteration {training.iteration} of "
                    f"{config.max_iters}; the state is saved, continue with resume"
                )


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


def _require_finite(training: Training, terms: dict[str, torch.Tensor]) -> None:
    if not torch.isfinite(terms["loss"]):
        raise OpensegError(
            f"the loss is not finite at iteration {training.iteration}; lower train.lr; the last good state is "
            f"{latest_path(training.experiment, training.checkpoint_root)}"
        )


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


def _validate(training: Training, pairs: list[Pair], targets_dir: Path | None, writer: SummaryWriter | None) -> None:
    scores, criterion = evaluate_network(training.model, training.experiment, pairs, targets_dir, training.device)
    training.scores = scores
    text = "  ".join(f"{name} {value:.4f}" for name, value in scores.items())
    logger.info("%s  validation at %d:  %s", training.experiment.name, training.iteration, text)
    if criterion > training.best:
        training.best = criterion
        training.save_best()
    if writer is not None:
        for name, value in scores.items():
            writer.add_scalar(f"val/{name}", value, training.iteration)
        if targets_dir is None:
            _write_panels(training, pairs, writer)


@torch.inference_mode()
def _write_panels(training: Training, pairs: list[Pair], writer: SummaryWriter) -> None:
    """A few validation images with their truth and prediction, side by side."""
    catalog = get_catalog(training.experiment.data.dataset)
    dataset = ValSet(training.experiment, pairs[:: max(len(pairs) // _PANELS, 1)][:_PANELS])
    for index in range(len(dataset)):
        item = dataset.load(index)
        image = item["image"][None].to(training.device)
        labels = predict_labels(training.model, image, training.experiment.normalization)[0].cpu().numpy()
        panels = [catalog.colorize(values) for values in (item["label"], labels)]
        row = torch.cat([item["image"], *[torch.from_numpy(x.transpose(2, 0, 1)) for x in panels]], dim=2)
        writer.add_image(f"val/{item['pair'].key}", row, training.iteration)
