"""``openseg.train``: train, fine-tune or resume a config."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openseg.config import Config
from openseg.distributed import be_deterministic, pick_device, process_group
from openseg.errors import OpensegError
from openseg.io.files import noticing
from openseg.io.progress import show_progress
from openseg.tools.common import as_config
from openseg.tools.paths import PathLike
from openseg.training.checkpoints import best_path, latest_path
from openseg.training.trainer import TrainingStart, run_training

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training run.

    Attributes:
        checkpoint: the last state; ``openseg.load_model`` and ``openseg.train(weights=...)`` take it.
        best: the state with the best validation score, None before the first validation.
        iteration: number of updates.
        scores: of the last validation, by name.
        run_dir: TensorBoard events, ``metrics.jsonl`` and the resolved config.
    """

    checkpoint: Path
    best: Path | None
    iteration: int
    scores: dict[str, float]
    run_dir: Path | None


def train(
    config: PathLike | Config,
    *,
    overrides: Sequence[str] = (),
    weights: PathLike | None = None,
    partial: bool = False,
    resume: Literal["never", "may", "must"] = "never",
    change: bool = False,
    checkpoints: PathLike = "checkpoints",
    runs: PathLike | None = "runs",
    device: str = "auto",
    deterministic: bool = False,
    progress: bool = True,
) -> TrainingResult:
    """Train a config to its last iteration, validating and saving on the way; in each process that torchrun starts.

    Args:
        config: config, or path of its YAML file.
        overrides: config values to override, as ``key.sub=value``.
        weights: checkpoint to start from (fine-tuning); any supported layout.
        partial: load only the matching parameters of ``weights``.
        resume: ``never`` starts a new training and refuses to overwrite another; ``may`` continues one that was begun;
            ``must`` continues.
        change: allow settings that change the training, such as ``train.lr``.
        checkpoints: root folder of checkpoints; files are ``<root>/<dataset>/<name>_latest.pth`` and ``_best.pth``.
        runs: root folder of TensorBoard events and metrics; without one none are written.
        device: auto (a GPU if available), cpu, cuda, cuda:1, ...
        deterministic: use deterministic algorithms, for bit-exact results on the same GPUs; slower.
        progress: show progress bars on a terminal.

    Returns:
        The checkpoints, the number of iterations and the last validation scores.

    Raises:
        ConfigError, CheckpointError, DataError: see ``openseg.training.trainer.run_training``.
        Interrupted: a signal came; the state was saved first.
        OpensegError: non-finite gradients again and again, or the disk is full; the last good state is saved.

    For example:

        result = openseg.train("configs/camvid/hrnet18_ocr.yaml", overrides=["train.max_iters=1000"])
        model = openseg.load_model("configs/camvid/hrnet18_ocr.yaml", result.best)
    """
    settings = as_config(config, overrides)
    root = Path(checkpoints)
    run_dir = None if runs is None else Path(runs) / settings.dataset_info.name / settings.name
    start = TrainingStart(resume, Path(weights) if weights else None, partial, change)
    if deterministic:
        be_deterministic()
    chosen = pick_device(device)
    # What is left out of a dataset is said; a training that ended well has ended well.
    with noticing(), process_group(chosen) as group, show_progress(progress):
        if not group.first:
            logging.getLogger("openseg").setLevel(logging.WARNING)
        try:
            training = run_training(settings, chosen, root, run_dir, start, group)
        except OpensegError as error:
            if group.world > 1:
                error.args = (f"process {group.rank} of {group.world}: {error}",)
            raise
    best = best_path(settings, root)
    return TrainingResult(
        latest_path(settings, root), best if best.is_file() else None, training.iteration, training.scores, run_dir
    )
