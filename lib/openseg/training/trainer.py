"""The training loop: iterations, validations, checkpoints that resume bit for bit, in one process or many."""

from __future__ import annotations

import contextlib
import logging
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from openseg.config import Config
from openseg.datasets.check import quick_check
from openseg.datasets.loaders import TrainSet, draws_of, iterate_training
from openseg.datasets.samples import list_split
from openseg.datasets.splits import Pair
from openseg.distributed import Group, SharedSignal
from openseg.errors import CheckpointError, DataError, Interrupted, OpensegError
from openseg.io.progress import is_hidden
from openseg.models.checkpoint.io import load_backbone, load_weights, read_checkpoint
from openseg.models.checkpoint.load import compare_classes, fit_config
from openseg.training.checkpoints import PATIENCE, best_path, exclusive, latest_path, remove_unfinished, saved_states
from openseg.training.frozen import compute_features
from openseg.training.run_log import RunLog
from openseg.training.state import Training, build_training, read_resumable
from openseg.training.step import Step, require_norm_values, to_device
from openseg.training.validation import evaluate_network

__all__ = ["TrainingStart", "run_training"]

logger = logging.getLogger("openseg")

_MEBI = 2**20


@dataclass(frozen=True)
class TrainingStart:
    """What a training begins with.

    Attributes:
        resume: ``must`` continue, continue if there ``may`` be something, or ``never``.
        change: continue with other settings of ``train``, ``loss`` and ``augment``.
        weights: checkpoint to start from (fine-tuning); any supported layout.
        partial: load only the matching parameters of ``weights``.
    """

    resume: str = "never"
    weights: Path | None = None
    partial: bool = False
    change: bool = False


@contextlib.contextmanager
def _stop_on_signal(group: Group) -> Iterator[list[int]]:
    """Collect signals instead of dying in the middle of an update.

    A second one acts as usual, but not among several processes: torchrun sends Ctrl-C once more than the terminal.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}

    def remember(number: int, _: object) -> None:
        received.append(number)
        if group.world == 1:
            signal.signal(number, previous[number])

    numbers = [signal.SIGINT, signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else [])]
    for number in numbers:
        previous[number] = signal.signal(number, remember)
    try:
        yield received
    finally:
        for received_as, handler in previous.items():
            signal.signal(received_as, handler)


def run_training(
    config: Config,
    device: torch.device,
    checkpoint_root: Path = Path("checkpoints"),
    run_dir: Path | None = None,
    start: TrainingStart = TrainingStart(),
    group: Group = Group(),  # noqa: B008  (a tuple)
    patience: float = PATIENCE,
) -> Training:
    """Train a config to its last iteration, validating and saving on the way.

    On a CPU an interrupted and resumed training equals an uninterrupted one bit for bit, with as many processes.

    Args:
        run_dir: where TensorBoard events and other files go; None writes none.
        start: with which weights, and whether to continue.
        group: the processes that share each batch.
        patience: seconds to wait for another training of the same checkpoint to end.

    Raises:
        CheckpointError: nothing to resume, something would be overwritten, weights that do not fit, or another
            training writes the same checkpoint.
        ConfigError: the batch cannot be shared by so many processes.
        DataError: the dataset is missing or broken.
        Interrupted: a signal came; the state was saved first.
        OpensegError: gradients were not finite again and again, or the disk is full; the last good state is there.
    """
    require_norm_values(config, group)
    latest = latest_path(config, checkpoint_root)
    _continues(config, checkpoint_root, start)  # what is wrong is said before anything is written
    data = config.data
    pairs = {data.train_split: list_split(config, data.train_split)}
    if data.val_split is not None:
        try:
            pairs[data.val_split] = list_split(config, data.val_split)
        except DataError as error:
            raise DataError(
                f"{error}; to validate on another split, say data.val_split=NAME, to train without, data.val_split=null"
            ) from None
    if group.first:
        for split in pairs:
            quick_check(config, pairs[split])
    with exclusive(latest, patience) if group.first else contextlib.nullcontext():
        group.wait()  # nobody looks before the files are this training's
        resume = group.broadcast(_continues(config, checkpoint_root, start) if group.first else None)
        if group.first:
            remove_unfinished(latest, best_path(config, checkpoint_root))
        training = _begin(config, device, checkpoint_root, start, resume, group)
        _run(training, pairs[data.train_split], pairs.get(data.val_split or "", []), run_dir, group)
    return training


def _continues(config: Config, root: Path, start: TrainingStart) -> bool:
    """Whether there is a training to continue.

    Raises:
        CheckpointError: there must be one and is none, or a new training would overwrite something.
    """
    latest = latest_path(config, root)
    states = saved_states(latest)
    if start.resume == "must" and not states:
        raise CheckpointError(f"{latest}: nothing to resume from; start with train")
    if states and start.resume != "never":
        return True
    for path in (*states, best_path(config, root)):
        if path.exists():
            raise CheckpointError(
                f"{path}: already exists and this training did not write it; use another name, resume it, or move "
                "it away"
            )
    return False


def _run(
    training: Training, train_pairs: list[Pair], val_pairs: list[Pair], run_dir: Path | None, group: Group
) -> None:
    config = training.config
    if training.finished and not training.validation_due:
        logger.info("%s: training is complete (%d iterations)", config.name, training.iteration)
        return
    if training.exhausted and not training.validation_due:
        logger.info(
            "%s: stopped early at iteration %d; the best was %d", config.name, training.iteration, training.best_at
        )
        return
    dataset = TrainSet(config, train_pairs, compute_features(training, train_pairs, group))
    if config.data.cache_gb:
        dataset.samples.cache.remove_leftovers()
        dataset.samples.cache.recount()
    folder = run_dir if group.first else None
    with RunLog(config, folder, training.iteration, group.world) as log, _stop_on_signal(group) as received:
        run = _Run(training, val_pairs, log, received, group)
        run.validate_if_due()  # the checkpoint may be of just before a validation
        run.loop(dataset)


def _begin(
    config: Config, device: torch.device, root: Path, start: TrainingStart, resume: bool, group: Group
) -> Training:
    """The training at its start, or where it was left off."""
    checkpoint, latest = None, latest_path(config, root)
    if resume:
        found = read_resumable(latest, config, start.change) if group.first else None
        group.wait()  # it may have set damaged ones aside
        checkpoint, config = found or read_resumable(latest, config, start.change)
    elif start.weights is not None:
        checkpoint = read_checkpoint(start.weights)
        compare_classes(config, checkpoint)
        config = fit_config(config, checkpoint)
    training = build_training(config, device, root, group)
    settings = config.train
    shares = (
        f"{group.world} x {settings.accumulate} x {settings.batch_size // group.world // settings.accumulate} samples"
    )
    logger.info("%s on %s, %s, %s", config.name, _name_of(device), settings.precision, shares)
    if checkpoint is not None and resume:
        training.restore(checkpoint)
        if len(set(group.collect(training.iteration))) > 1:
            raise CheckpointError(f"{latest}: processes see different files; put checkpoints on a shared file system")
        logger.info("resumed %s at iteration %d", checkpoint.path, training.iteration)
    elif checkpoint is not None:
        logger.info("%s: %s", start.weights, load_weights(training.model, checkpoint, start.partial, new_classes=True))
    elif config.model.pretrained is not None:
        report = load_backbone(training.model.get_submodule("backbone"), config.model.pretrained)
        logger.info("%s: %s", config.model.pretrained, report)
    return training


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device}"


@dataclass
class _Run:
    """One call of ``run_training``: the loop and what it reports to."""

    training: Training
    val_pairs: list[Pair]
    log: RunLog
    received: list[int]
    group: Group
    shared_signal: SharedSignal = field(init=False)
    step: Step | None = None
    since: float = 0.0
    waited: float = 0.0
    last: int = 0

    def __post_init__(self) -> None:
        self.shared_signal = SharedSignal(self.group)

    def loop(self, dataset: TrainSet) -> None:
        training, group = self.training, self.group
        settings, device = training.config.train, training.device
        step = self.step = Step(training, group, dataset.features)
        batches = iterate_training(dataset, training.iteration, device.type == "cuda", group.rank, group.world)
        bar = tqdm(
            total=settings.max_iters,
            initial=training.iteration,
            desc=training.config.name,
            disable=None if group.first and not is_hidden() else True,
            dynamic_ncols=True,
        )
        self._restart_clock()
        save_due = False
        done = torch.cuda.Event() if device.type == "cuda" else None
        asked = time.perf_counter()
        with bar, self._saving_at_broken_data():
            for batch in to_device(batches, device):
                if done is None or done.query():  # else a GPU has not caught up yet, and nothing waited
                    self.waited += time.perf_counter() - asked
                terms = step(batch)
                if done is not None:
                    done.record()
                training.iteration += 1
                bar.update()
                if training.iteration % settings.log_interval == 0 or training.finished:
                    self._report(step, terms, bar)
                    self._require_finite(step, dataset)
                signaled = self.shared_signal.exchange(self.received[0] if self.received else 0)
                due = training.iteration % settings.save_interval == 0 or training.finished or training.validation_due
                save_due = save_due or due or bool(signaled)
                if save_due and (signaled or self._sound):
                    self._save()
                    save_due = False
                self._stop_if(signaled)
                if self.validate_if_due():
                    self._restart_clock()
                    if training.exhausted:
                        logger.info(
                            "%s: no better in %d validations; stopped at iteration %d, the best is of %d",
                            training.config.name,
                            settings.patience,
                            training.iteration,
                            training.best_at,
                        )
                        return
                asked = time.perf_counter()
            if save_due:  # nothing better will come
                self._save()

    @property
    def _sound(self) -> bool:
        """Whether the last gradient was finite; what leads to others is not kept."""
        return self.step is None or not int(self.step.skipped)

    @contextlib.contextmanager
    def _saving_at_broken_data(self) -> Iterator[None]:
        try:
            yield
        except DataError:  # between two updates
            if self.training.iteration and self._sound:
                self._save()
            raise

    def _restart_clock(self) -> None:
        self.since, self.waited, self.last = time.perf_counter(), 0.0, self.training.iteration

    def _save(self) -> None:
        if self.group.first:
            self.training.save()
        self.training.saved = self.training.iteration

    def _stop_if(self, signaled: int) -> None:
        if signaled:
            training = self.training
            raise Interrupted(
                f"stopped by {signal.Signals(signaled).name} at iteration {training.iteration} of "
                f"{training.config.train.max_iters}; the state of iteration {training.saved or 0} is saved, "
                "continue with resume"
            )

    def _report(self, step: Step, terms: dict[str, torch.Tensor], bar: tqdm) -> None:
        training, count = self.training, self.training.iteration - self.last
        names = [*terms]
        values = self.group.mean(torch.stack([terms[name].float() for name in names])).tolist()
        seconds = time.perf_counter() - self.since
        report = dict(zip(names, values, strict=True))
        report["grad norm"] = float(step.grad_norm)
        report["images/s"] = count * training.config.train.batch_size / seconds
        report["data wait"] = self.waited / seconds
        if training.device.type == "cuda":
            report["GPU MiB"] = torch.cuda.max_memory_allocated(training.device) / _MEBI
        rates = {"lr": 1.0, "head lr": training.config.train.head_lr_multiplier}
        current = training.optimizer.param_groups[0]
        report |= {name: current["lr"] / current["multiplier"] * factor for name, factor in rates.items()}
        if self.group.first:
            self.log.progress(training.iteration, report, line=bool(bar.disable))
        bar.set_postfix_str("  ".join(f"{name} {report[name]:.4f}" for name in names))
        self._restart_clock()

    def _require_finite(self, step: Step, dataset: TrainSet) -> None:
        """Raises OpensegError where so many gradients in a row were not finite that training goes nowhere."""
        training, count = self.training, int(step.skipped)
        settings = training.config.train
        if count < settings.max_nonfinite:
            return
        first, last = training.iteration - count + 1, training.iteration
        draws = [draw for each in range(first - 1, last) for draw in draws_of(each, settings.batch_size)]
        samples = [str(dataset.pair_of(draw).image) for draw in draws]
        listed = self.log.dump("nonfinite.json", {"first": first, "last": last, "images": samples})
        where = f"; their images are listed in {listed}" if listed else ""
        raise OpensegError(
            f"non-finite gradients in {count} consecutive iterations, {first} to {last}, which were skipped{where}; "
            "resume --change with a lower train.lr, a train.clip_grad_norm or another train.precision; the last good "
            f"state is {latest_path(training.config, training.checkpoint_root)}"
        )

    def validate_if_due(self) -> bool:
        """Validate where the schedule says so, keep the best, and save that it was done."""
        training = self.training
        if not training.validation_due:
            return False
        model = training.result
        self.group.share_buffers(model)
        fastest, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False  # images differ in size
        found = evaluate_network(model, training.config, self.val_pairs, training.device, self.group)
        torch.backends.cudnn.benchmark = fastest
        training.scores, training.validated = found.scores, training.iteration
        better = found.criterion > training.best and self._sound
        if better:
            training.best, training.best_at = found.criterion, training.iteration
        if self.group.first:
            self.log.validation(training.iteration, found)
            self.log.panels(training.iteration, model, self.val_pairs, training.device)
            if better:
                training.save_best()
        if self._sound:
            self._save()
        self.group.wait()
        self._stop_if(max(self.group.collect(self.received[0] if self.received else 0)))
        return True
