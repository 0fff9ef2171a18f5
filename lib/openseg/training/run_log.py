"""Training logs: console, TensorBoard events, and files in the run's folder.

``metrics.jsonl`` has a line for every ``train.log_interval`` and every validation, ``config.yaml`` is the resolved
config, ``starts.jsonl`` has for each start or continuation its time, command, versions, state of the code and places
of plugins.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import logging
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.utils.tensorboard import SummaryWriter

from openseg.config import Config
from openseg.datasets.loaders import ValSet
from openseg.datasets.splits import Pair
from openseg.datasets.transforms import fit_image
from openseg.errors import OpensegError
from openseg.inference import predict_labels
from openseg.io.files import atomic_write, without_nan, write_json
from openseg.plugins import loaded_plugins
from openseg.training.validation import Validation

__all__ = ["RunLog"]

logger = logging.getLogger("openseg")

_PANELS = 4


class RunLog:
    """Use as a context manager; without a folder only the console is told, and nothing by a process but the first."""

    def __init__(self, config: Config, folder: Path | None, iteration: int, world: int) -> None:
        """``iteration``: the last one that counts; what was written of later ones is dropped.

        Raises:
            OpensegError: the folder cannot be written.
        """
        self.config, self.folder = config, folder
        self._writer: SummaryWriter | None = None
        self._lines, self._told = None, False
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._keep_lines_until(iteration)
            with atomic_write(folder / "config.yaml") as temporary:
                temporary.write_text(yaml.safe_dump(config.dump(), sort_keys=False))
            with (folder / "starts.jsonl").open("a", encoding="utf-8") as file:
                plugins = {name: folders for name, folders in loaded_plugins() if name in config.plugins}
                start = {"iteration": iteration, "processes": world, "plugins": plugins, **_circumstances()}
                file.write(json.dumps(start) + "\n")
            self._lines = (folder / "metrics.jsonl").open("a", encoding="utf-8")
            self._writer = SummaryWriter(str(folder), purge_step=iteration + 1)
        except OSError as error:
            problem = f"cannot write what happens to {folder} ({error.strerror or error})"
            if not iteration:
                raise OpensegError(problem) from error
            logger.warning("%s; training continues without it", problem)

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        with self._going_on():
            if self._writer is not None:
                self._writer.close()
            if self._lines is not None:
                self._lines.close()

    def _keep_lines_until(self, iteration: int) -> None:
        assert self.folder is not None
        path = self.folder / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                if json.loads(line)["iteration"] <= iteration:
                    kept.append(f"{line}\n")
            except (ValueError, KeyError, TypeError):  # cut off in the middle
                continue
        with atomic_write(path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")

    def progress(self, iteration: int, values: dict[str, float], line: bool) -> None:
        """Log values of an update by name; ``line``: also on the console."""
        if line:
            shown = {name: value for name, value in values.items() if "lr" not in name}
            text = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            logger.info("%s  %d/%d  %s", self.config.name, iteration, self.config.train.max_iters, text)
        self._write({"iteration": iteration, **values})
        self._scalars("train", values, iteration)

    def validation(self, iteration: int, found: Validation) -> None:
        """Log the scores of a validation."""
        text = "  ".join(f"{name} {value:.4f}" for name, value in found.scores.items())
        logger.info("%s  validation at %d:  %s", self.config.name, iteration, text)
        self._write({"iteration": iteration, "val": found.scores, "class IoU": found.class_iou})
        self._scalars("val", found.scores, iteration)
        self._scalars("val class IoU", found.class_iou, iteration)

    def _write(self, values: dict[str, Any]) -> None:
        if self._lines is not None:
            with self._going_on():
                self._lines.write(json.dumps(without_nan(values)) + "\n")
                self._lines.flush()

    def _scalars(self, group: str, values: dict[str, float], iteration: int) -> None:
        if self._writer is not None:
            with self._going_on():
                for name, value in values.items():
                    self._writer.add_scalar(f"{group}/{name}", value, iteration)

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Context that ignores write errors of logs; a full disk there must not stop training."""
        try:
            yield
        except OSError as error:
            if not self._told:
                logger.warning("%s: cannot be written (%s); training goes on", self.folder, error.strerror or error)
            self._told = True

    @torch.inference_mode()
    def panels(self, iteration: int, model: torch.nn.Module, pairs: Sequence[Pair], device: torch.device) -> None:
        """Show a few validation images with ground truth and prediction in TensorBoard."""
        if self._writer is None or not self.config.predicts_labels:
            return
        info = self.config.dataset_info
        dataset = ValSet(self.config, pairs[:: max(len(pairs) // _PANELS, 1)][:_PANELS])
        for index in range(len(dataset)):
            item = dataset.load(index)
            image = item["image"][None].to(device)
            labels = predict_labels(model, image, self.config, "ss", item["label"].shape)[0].cpu().numpy()
            panels = [info.colorize(values) for values in (item["label"], labels)]
            panels = [fit_image(panel, self.config.data).transpose(2, 0, 1) for panel in panels]
            shown = info.as_rgb(item["image"].numpy().transpose(1, 2, 0)).transpose(2, 0, 1)
            row = np.concatenate([shown, *panels], axis=2)
            with self._going_on():
                self._writer.add_image(f"val/{item['pair'].key}", row, iteration)

    def dump(self, name: str, value: Any) -> Path | None:
        """Write a JSON file into the run's folder, if enabled."""
        if self.folder is None:
            return None
        try:
            write_json(self.folder / name, value)
        except OpensegError as error:
            logger.warning("%s", error)
            return None
        return self.folder / name


def _circumstances() -> dict[str, Any]:
    gpus = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "command": sys.argv,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "host": platform.node(),
        "gpus": gpus,
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Return the commit of the code and whether it has local changes; None outside a clone."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return None
