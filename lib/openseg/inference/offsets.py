"""Prediction of SegFix offsets, for one image or into a folder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from openseg.config import Config
from openseg.config.tasks import TASKS
from openseg.distributed import Group
from openseg.errors import ConfigError, OpensegError
from openseg.inference import predict_boundary
from openseg.inference.folder import model_settings, test_settings
from openseg.inference.precision import with_precision
from openseg.inference.predictor import device_for, load_for_inference
from openseg.inference.runner import run_over_images
from openseg.io.results import Journal, OnConflict, ResultFolder
from openseg.segfix import OFFSET_SUFFIXES, OffsetMap, write_offsets

__all__ = ["FORMATS", "SegFixPredictor", "write_offset_files"]

FORMATS: dict[str, tuple[str, Literal["int8", "int32"]]] = {
    "png": (".png", "int8"),
    "mat": (".mat", "int8"),
    "mat-int32": (".mat", "int32"),
}
"""Suffix and type of the numbers of each kind of offset file."""


class SegFixPredictor:
    """SegFix inference: ``SegFixPredictor(config, checkpoint)(image)`` returns the offsets of an image."""

    def __init__(self, config: Config, checkpoint: str | os.PathLike, device: str | torch.device = "auto") -> None:
        """
        Raises:
            ConfigError: the config is not of SegFix, or there is no such device.
            CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the config.
        """
        if not config.needs_targets:
            command = TASKS[config.task].command
            raise ConfigError(
                f"{config.name} is a config of task {config.task}, which predicts no offsets; use the command "
                f"'{command}'"
            )
        self.device = device_for(config, device)
        self.config = config = with_precision(config, Path(checkpoint), self.device)
        self.model, self.report = load_for_inference(config, Path(checkpoint), self.device)
        self.model.eval()

    def __call__(self, image: np.ndarray) -> OffsetMap:
        """Return the offsets of an RGB image ``uint8[H, W, 3]``."""
        return self.predict(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))))

    @torch.inference_mode()
    def predict(self, image: torch.Tensor) -> OffsetMap:
        """Return the offsets of an image ``uint8[3, H, W]``."""
        boundary = predict_boundary(self.model, image[None].to(self.device, non_blocking=True), self.config)
        return boundary.offset_map(self.config)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the offsets, besides weights and images."""
        config = self.config
        return {
            "model": model_settings(config),
            "threshold": config.segfix.mask_threshold,
            "test": test_settings(config, ("ms", "average")),
            "normalization": config.normalization.model_dump(mode="json"),
        }


def write_offset_files(
    predictor: SegFixPredictor,
    images: Sequence[Path],
    out_dir: Path,
    kind: str,
    made_by: dict[str, Any],
    group: Group,
    overwrite: bool = False,
    broken: list[OpensegError] | None = None,
) -> None:
    """Write the offsets of images: ``<out_dir>/<image stem>`` with the suffix of ``kind``, see ``FORMATS``.

    Existing files are skipped if ``made_by``, such as the checkpoint's hash, is unchanged.

    Args:
        broken: takes the errors of images that cannot be read; None raises the first one.

    Raises:
        DataError: the folder holds offsets that no such call wrote.
    """
    suffix, dtype = FORMATS[kind]
    files = {path: out_dir / f"{path.stem}{suffix}" for path in images}
    made_by = {"what": "offsets", **made_by, **predictor.settings, "format": kind}
    on_conflict: OnConflict = "overwrite" if overwrite else "replace"
    journal = Journal(out_dir)

    def compute(item: dict[str, Any]) -> OffsetMap:
        return predictor.predict(item["image"])

    def write(item: dict[str, Any], offsets: OffsetMap) -> None:
        with journal.writing(item["path"]):
            write_offsets(files[item["path"]], offsets, dtype)

    folder = ResultFolder(out_dir, made_by, OFFSET_SUFFIXES, on_conflict=on_conflict) if group.first else None
    with folder or contextlib.nullcontext():
        todo = None
        if folder is not None:
            todo = [path for path, target in files.items() if not folder.is_done(target, path)]
            folder.start()
            folder.tell_kept(len(images) - len(todo), len(images))
        todo = group.broadcast(todo)
        run_over_images(predictor.config, todo, compute, write, "offsets", predictor.device, group, broken)
