"""State of a training run: saving, restoring and resuming."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from openseg.allocator import keep_freed_memory
from openseg.config import Config, DataConfig
from openseg.distributed import Group, set_precision
from openseg.errors import CheckpointError, ConfigError, OpensegError
from openseg.models.base import synchronize_norms
from openseg.models.checkpoint.io import Checkpoint, load_weights, write_checkpoint
from openseg.models.checkpoint.load import compare_classes, fit_config
from openseg.models.factory import build_model
from openseg.training.checkpoints import best_path, keep_latest, latest_path, newest_readable, remove_earlier
from openseg.training.schedule import build_optimizer

__all__ = ["Training", "build_training", "read_resumable"]

logger = logging.getLogger("openseg")


@dataclass
class Training:
    """State of a run; ``iteration`` is the number of updates, ``validated`` the last validated iteration.

    ``ema`` is the moving average of the weights, if enabled; ``saved`` is the iteration of ``<name>_latest.pth``.
    """

    config: Config
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    device: torch.device
    checkpoint_root: Path
    ema: AveragedModel | None = None
    iteration: int = 0
    best: float = float("-inf")
    best_at: int = 0
    scores: dict[str, float] = field(default_factory=dict)
    validated: int = 0
    saved: int | None = None

    @property
    def result(self) -> nn.Module:
        """The network to validate and to publish: the moving average if enabled."""
        return self.model if self.ema is None else self.ema.module

    def content(self) -> dict[str, Any]:
        """Everything required for an exact resume.

        Random states are not included: random numbers depend on the iteration, see step.py and loaders.py.
        """
        content = {
            "weights": self.result.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "iteration": self.iteration,
            "best": self.best,
            "best_at": self.best_at,
            "scores": self.scores,
            "validated": self.validated,
            "config": self.config.dump(),
            "dataset": self.config.dataset_info.meaning,
        }
        if self.ema is not None:
            content |= {"training_weights": self.model.state_dict(), "averaged": int(self.ema.n_averaged)}
        return content

    @property
    def finished(self) -> bool:
        return self.iteration >= self.config.train.max_iters

    @property
    def exhausted(self) -> bool:
        """Whether ``train.patience`` is over: so many validations in a row were no better than the best one."""
        train = self.config.train
        return train.patience is not None and self.validated - self.best_at >= train.patience * train.val_interval

    @property
    def validation_due(self) -> bool:
        """Whether this iteration is to be validated and was not yet."""
        if self.config.data.val_split is None:
            return False
        due = self.finished or self.iteration % self.config.train.val_interval == 0
        return due and self.iteration > self.validated

    def save(self) -> None:
        """Write ``<name>_latest.pth``; previous states are kept under other names, see ``train.keep``.

        Raises:
            OpensegError: non-finite weights (the file is unchanged), or a full disk.
        """
        latest, keep = latest_path(self.config, self.checkpoint_root), self.config.train.keep
        values = self.model.state_dict().values()
        if not all(torch.isfinite(value).all() for value in values if value.is_floating_point()):
            raise OpensegError(
                f"the weights are not finite at iteration {self.iteration}; lower train.lr; the last valid "
                f"checkpoint is {latest}"
            )
        if keep > 1 and self.saved not in (None, self.iteration):
            keep_latest(latest, self.saved)
        write_checkpoint(latest, self.content())
        self.saved = self.iteration
        remove_earlier(latest, keep - 1)

    def save_best(self) -> None:
        write_checkpoint(best_path(self.config, self.checkpoint_root), self.content())

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state from a checkpoint of the same config."""
        content = checkpoint.content
        load_weights(self.result, checkpoint)
        if self.ema is not None:
            self.model.load_state_dict(content["training_weights"])
            self.ema.n_averaged.fill_(content["averaged"])
        self._restore_optimizer(content["optimizer"])
        if content.get("scaler"):  # empty where the precision before needed none
            self.scaler.load_state_dict(content["scaler"])
        self.iteration, self.best, self.scores = content["iteration"], content["best"], content["scores"]
        self.validated, self.saved = content["validated"], self.iteration
        self.best_at = content.get("best_at", self.validated)  # older files do not have it

    def _restore_optimizer(self, state: dict[str, Any]) -> None:
        """Restore parameter states; settings are those of the config, which may have changed."""
        settings = [{k: v for k, v in group.items() if k != "params"} for group in self.optimizer.param_groups]
        fused = [group | {"fused": True} for group in state["param_groups"]]  # or steps would stay on the CPU
        self.optimizer.load_state_dict(state | {"param_groups": fused})
        for group, now in zip(self.optimizer.param_groups, settings, strict=True):
            group.update(now)
        for parameter, values in self.optimizer.state.items():
            for name, value in values.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:  # in the parameter's memory layout
                    values[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


_NEEDED = {"optimizer", "iteration", "best", "scores", "validated", "config"}
# What may differ between a run and its continuation: it changes how the same is learned, or how long.
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
    "train.keep",
    "train.patience",
    "train.max_nonfinite",
    "train.accumulate",
    "train.compile",
    "train.grad_checkpointing",
    "train.sync_bn",
    "test.",
    "metrics",
    "plugins",
)
_WITH_CHANGE = ("train.", "loss.", "segfix.", "augment.", "data.")
_SCORED = ("test.ss", "test.window", "test.average", "data.val_split", "data.size", "data.short_side")
_SHAPE_STATE = ("train.optimizer", "train.decay_norms", "train.ema", "train.seed", "train.batch_size", "data.dataset")


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, list) and value and all(isinstance(each, dict) for each in value):
            # A list such as loss; of a single entry the position says nothing.
            value = value[0] if len(value) == 1 else {str(place): each for place, each in enumerate(value)}
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _compare_values(config: Config, checkpoint: Checkpoint) -> None:
    """Raises CheckpointError where a value of label files means something else now; more known values are fine."""
    before = checkpoint.content.get("dataset", {}).get("values", {})  # older files have none
    now = config.dataset_info.meaning["values"]
    changed = [value for value in before if now.get(value) != before[value]]
    if changed:
        raise CheckpointError(
            f"{checkpoint.path}: in the labels of {config.dataset_info.name} the value {changed[0]} meant something "
            "else when this training began; resume with the dataset's file as it was, or start anew under another name"
        )


def _is_moved_file(was: str, becomes: str, config: Config, checkpoint: Checkpoint) -> bool:
    """Whether two paths are those of one dataset's YAML file: its classes decide; ``_compare_values`` is of the IDs."""
    paths = all(Path(each).suffix in (".yaml", ".yml") for each in (was, becomes))
    return paths and checkpoint.content["dataset"]["classes"] == config.dataset_info.meaning["classes"]


def read_resumable(latest: Path, config: Config, change: bool = False) -> tuple[Checkpoint, Config]:
    """The newest state to continue from that is not damaged, and the config as it fits it.

    ``change``: settings may be others as far as the state fits them.

    Raises:
        CheckpointError: there is none, it holds weights only, or was trained with settings that this config
            changes.
    """
    checkpoint = newest_readable(latest)
    path = checkpoint.path
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
    config = fit_config(config, checkpoint)
    compare_classes(config, checkpoint)
    _compare_values(config, checkpoint)
    # A setting that is younger than the file had its default.
    defaults = Config(name="defaults", data=DataConfig(dataset=config.data.dataset))
    lists = ("loss.", "augment.transforms")
    assumed = {key: value for key, value in _flatten(defaults.dump()).items() if not key.startswith(lists)}
    before = assumed | _flatten(checkpoint.content["config"])
    now = _flatten(config.dump())
    absent = "(not set)"  # options that another loss or transform has
    for key in (*now, *(key for key in before if key not in now)):
        was, becomes = before.get(key, absent), now.get(key, absent)
        if was == becomes:
            continue
        if key.startswith("model.") and key.startswith(_MAY_CHANGE):  # the weights have them already
            continue
        if key == "data.dataset" and _is_moved_file(was, becomes, config, checkpoint):
            continue
        if key.startswith((*_MAY_CHANGE, *(_WITH_CHANGE if change else ()))) and key not in _SHAPE_STATE:
            logger.info("%s: %s was %s and is %s from here on", path, key, was, becomes)
            if key.startswith(_SCORED):  # scores before and after do not compare
                checkpoint.content |= {"best": float("-inf"), "best_at": checkpoint.content["validated"]}
        else:
            raise CheckpointError(
                f"{path}: was trained with {key}={was}, but {key} is now {becomes}; restore it, "
                + ("" if key in _SHAPE_STATE or not key.startswith(_WITH_CHANGE) else "say resume --change, ")
                + "or start a new training under another name"
            )
    return checkpoint, config


def _recompute_activations(model: nn.Module) -> None:
    backbone = model.get_submodule("backbone")
    if not hasattr(backbone, "set_grad_checkpointing"):
        raise ConfigError(
            f"train.grad_checkpointing: the backbone {type(backbone).__name__} cannot compute its activations again "
            "(it has no set_grad_checkpointing); set it to false"
        )
    backbone.set_grad_checkpointing(True)  # type: ignore[operator]


def build_training(config: Config, device: torch.device, checkpoint_root: Path, group: Group | None = None) -> Training:
    """Create a run before its first update; weights are a function of ``train.seed``."""
    group = group or Group()
    train = config.train
    if device.type == "cpu":
        keep_freed_memory()
    set_precision(device, train.precision)
    torch.manual_seed(train.seed)
    model = build_model(config).to(device)
    if config.model.freeze_backbone:
        model.get_submodule("backbone").requires_grad_(False)
    if train.channels_last:
        model = model.to(memory_format=torch.channels_last)
    if train.sync_bn and device.type == "cuda" and group.world > 1:
        model = synchronize_norms(model)
    if train.grad_checkpointing:
        _recompute_activations(model)
    ema = None
    if train.ema is not None:
        ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(train.ema), use_buffers=True)
        ema.eval().requires_grad_(False)
    scaler = torch.amp.GradScaler(device.type, enabled=train.precision == "fp16")
    optimizer = build_optimizer(model, train)
    return Training(config, model, optimizer, scaler, device, checkpoint_root, ema)
