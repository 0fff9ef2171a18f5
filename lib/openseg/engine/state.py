"""What a training run consists of, and how it is written and continued."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from openseg.config import DataConfig, Experiment
from openseg.engine.checkpoints import best_path, latest_path
from openseg.errors import CheckpointError, OpensegError
from openseg.models import build_model
from openseg.models.weights import (
    Checkpoint,
    compare_classes,
    fit_experiment,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)

__all__ = ["Training", "build_training", "read_resumable"]


@dataclass
class Training:
    """A run's state; ``iteration`` counts the updates that were made, ``validated`` is the last one validated."""

    experiment: Experiment
    model: nn.Module
    optimizer: torch.optim.Optimizer
    device: torch.device
    checkpoint_root: Path
    iteration: int = 0
    best: float = float("-inf")
    scores: dict[str, float] = field(default_factory=dict)
    validated: int = 0

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
            "validated": self.validated,
            "rng": rng,
            "experiment": self.experiment.dump(),
            "data_set": self.experiment.catalog.meaning,
        }

    @property
    def finished(self) -> bool:
        return self.iteration >= self.experiment.train.max_iters

    @property
    def validation_due(self) -> bool:
        """Whether this iteration is one to validate at, and that was not done yet."""
        due = self.finished or self.iteration % self.experiment.train.val_interval == 0
        return due and self.iteration > self.validated

    def save(self) -> None:
        """Write ``<name>_latest.pth``.

        Raises:
            OpensegError: the weights are not finite (the file is left as it was), or the disk is full.
        """
        if not all(torch.isfinite(parameter).all() for parameter in self.model.parameters()):
            raise OpensegError(
                f"the weights are not finite at iteration {self.iteration}; lower train.lr; the last good state is "
                f"{latest_path(self.experiment, self.checkpoint_root)}"
            )
        write_checkpoint(latest_path(self.experiment, self.checkpoint_root), self.content())

    def save_best(self) -> None:
        write_checkpoint(best_path(self.experiment, self.checkpoint_root), self.content())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint of the same experiment."""
        content = checkpoint.content
        load_weights(self.model, checkpoint)
        self.optimizer.load_state_dict(content["optimizer"])
        self.iteration, self.best, self.scores = content["iteration"], content["best"], content["scores"]
        self.validated = content["validated"]
        torch.set_rng_state(content["rng"]["cpu"])
        if self.device.type == "cuda" and "cuda" in content["rng"]:
            torch.cuda.set_rng_state(content["rng"]["cuda"], self.device)


_NEEDED = {"optimizer", "iteration", "best", "scores", "validated", "rng", "experiment"}
# What may differ between a run and its continuation without changing what is learned; longer or shorter may be wanted.
_MAY_CHANGE = (
    "name",
    "data.root",
    "data.workers",
    "data.cache_",
    "model.pretrained",
    "model.head_activation",
    "train.max_iters",
    "train.val_interval",
    "train.save_interval",
    "train.log_interval",
    "test.",
)


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _compare_values(experiment: Experiment, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where a value of label files means something else now; more known values are fine."""
    before = checkpoint.content.get("data_set", {}).get("values", {})  # older files have none
    now = experiment.catalog.meaning["values"]
    changed = [value for value in before if now.get(value) != before[value]]
    if changed:
        raise CheckpointError(
            f"{checkpoint.path}: in the labels of {experiment.catalog.name} the value {changed[0]} meant something "
            "else when this training began; resume with the data set's file as it was, or start anew under another name"
        )


def read_resumable(path: Path, experiment: Experiment) -> tuple[Checkpoint, Experiment]:
    """The checkpoint to continue from, and the experiment as it fits it.

    Raises:
        CheckpointError: it holds weights only, or was trained with settings that this experiment changes.
    """
    checkpoint = read_checkpoint(path)
    if "optimizer" not in checkpoint.content:
        raise CheckpointError(
            f"{path}: holds weights only, no optimizer state to resume from; "
            f"to fine-tune it, move it away and pass --weights {path.name} to train"
        )
    lacking = _NEEDED - checkpoint.content.keys()
    if lacking:
        raise CheckpointError(
            f"{path}: an older version wrote it, without {', '.join(sorted(lacking))}, so it cannot be resumed; to "
            f"start from its weights, move it away and pass --weights {path.name} to train"
        )
    experiment = fit_experiment(experiment, checkpoint)
    compare_classes(experiment, checkpoint)
    _compare_values(experiment, checkpoint)
    # A setting that is younger than the file had its default.
    defaults = Experiment(name="", data=DataConfig(dataset=experiment.data.dataset))
    before = _flatten(defaults.dump()) | _flatten(checkpoint.content["experiment"])
    now = _flatten(experiment.dump())
    for key in now:
        if not key.startswith(_MAY_CHANGE) and before[key] != now[key]:
            raise CheckpointError(
                f"{path}: was trained with {key}={before[key]}, now it is {now[key]}; resume with the former, "
                "or start a new training under another name"
            )
    return checkpoint, experiment


def build_training(experiment: Experiment, device: torch.device, checkpoint_root: Path) -> Training:
    torch.manual_seed(experiment.train.seed)
    model = build_model(experiment).to(device)
    if experiment.train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    config = experiment.train
    groups: dict[str, list[nn.Parameter]] = {"backbone": [], "head": []}
    for name, parameter in model.named_parameters():
        groups["backbone" if name.startswith("backbone.") else "head"].append(parameter)
    multipliers = {"backbone": 1.0, "head": config.head_lr_multiplier}
    parameters = [{"params": groups[name], "multiplier": multipliers[name]} for name in groups]
    optimizer: torch.optim.Optimizer
    if config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
    return Training(experiment, model, optimizer, device, checkpoint_root)
