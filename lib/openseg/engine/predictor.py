"""A trained network that takes images and gives labels: what ``main.py`` and Python callers share."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import nn

from openseg.catalog import Catalog
from openseg.config import Experiment, load_experiment
from openseg.data.transforms import fit_image
from openseg.engine.distributed import pick_device, set_precision
from openseg.errors import ConfigError, DataError, OpensegError, is_out_of_memory
from openseg.images import read_image
from openseg.inference import Rows, argmax, predict_scores
from openseg.models.inference import prepare_for_inference
from openseg.models.weights import KeyReport, load_model

__all__ = ["Prediction", "Predictor", "load_for_inference"]

logger = logging.getLogger("openseg")

_SMALLEST_WINDOW = 128


def load_for_inference(
    experiment: Experiment, checkpoint: str | Path, device: torch.device
) -> tuple[nn.Module, KeyReport]:
    """The network of an experiment, ready to predict on ``device``: batch norms folded, in ``test.precision``.

    Raises:
        CheckpointError: the file is damaged, belongs to another network, or contradicts the experiment.
    """
    set_precision(device, experiment.test.precision)
    model, report = load_model(experiment, checkpoint)
    dtype = torch.bfloat16 if experiment.test.precision == "bf16" else torch.float32
    model = prepare_for_inference(model, dtype).to(device)
    if experiment.test.compile:
        model = torch.compile(model)
    return model, report


@dataclass(frozen=True)
class Prediction:
    """The labels of one image: training ids ``uint8[H, W]``, positions in ``catalog.classes``."""

    labels: np.ndarray
    image: np.ndarray
    catalog: Catalog

    @property
    def ids(self) -> np.ndarray:
        """The data set's own ids, ``uint8[H, W]``."""
        return self.catalog.decode(self.labels)

    @property
    def colors(self) -> np.ndarray:
        """RGB ``uint8[H, W, 3]``."""
        return self.catalog.colorize(self.labels)

    @property
    def overlay(self) -> np.ndarray:
        """The colours over the image, RGB ``uint8[H, W, 3]``."""
        return self.catalog.overlay(self.image, self.labels)


class Predictor:
    """``Predictor(config, checkpoint)(image)`` gives the labels of an image at its own size.

    When memory runs out, the image is cut into windows that overlap, smaller and smaller ones, with a warning: the
    labels are then slightly other ones, since each window sees less around it.
    """

    def __init__(
        self,
        config: str | os.PathLike | Experiment,
        checkpoint: str | os.PathLike,
        *,
        mode: Literal["ss", "ms"] = "ss",
        device: str | torch.device = "auto",
        overrides: Sequence[str] = (),
        windows_when_full: bool = True,
    ) -> None:
        """
        Args:
            config: the experiment, or its YAML file.
            checkpoint: weights of any layout that we know.
            mode: single-scale, or multi-scale and mirrored; see ``test`` of the experiment.
            device: auto (a GPU when there is one), cpu, cuda, cuda:1, ...
            overrides: ``dotted.key=value`` of the experiment.
            windows_when_full: False raises when memory runs out.

        Raises:
            ConfigError: the experiment cannot be read, is of SegFix, or there is no such device.
            CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the experiment.
        """
        if isinstance(config, Experiment) and overrides:
            raise ConfigError("overrides belong to an experiment's file; this experiment is complete")
        self.experiment = config if isinstance(config, Experiment) else load_experiment(Path(config), overrides)
        if self.experiment.task != "semantic":
            raise ConfigError(f"{self.experiment.name} is an experiment of task segfix, which has no labels to predict")
        self.device = pick_device(device)
        self.mode = mode
        self.model, self.report = load_for_inference(self.experiment, Path(checkpoint), self.device)
        self._windows_when_full = windows_when_full
        self._limit: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray | Image.Image | str | os.PathLike) -> Prediction:
        """The labels of one image: RGB ``uint8[H, W, 3]``, a PIL image, or a file.

        Raises:
            DataError: the file cannot be read, or the array is of another kind.
        """
        pixels = _pixels(image)
        fitted = fit_image(pixels, self.experiment.data)
        planes = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
        labels, _ = self.predict(planes, pixels.shape[:2])
        return Prediction(labels, pixels, self.experiment.catalog)

    @torch.inference_mode()
    def predict(self, image: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, Rows]:
        """Training ids ``uint8[*size]`` and logits of an image ``uint8[3, H, W]`` of the size that the network takes.

        Raises:
            OpensegError: memory runs out even in small windows.
        """
        images = image[None].to(self.device, non_blocking=True)
        while True:
            try:
                rows = predict_scores(self.model, images, self.experiment, self.mode, size, self._limit)
                return argmax(rows)[0].cpu().numpy(), rows
            except (RuntimeError, MemoryError) as error:
                if not self._windows_when_full or not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it what its frames held.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._limit = self._smaller(tuple(images.shape[-2:]))

    def _smaller(self, size: tuple[int, int]) -> tuple[int, int]:
        before = self._limit or self.experiment.test.window or size
        if max(before) <= _SMALLEST_WINDOW:
            raise OpensegError(f"out of memory even in windows of {before[0]}x{before[1]} pixels; free some, or resize")
        height, width = (max(min(a, b) // 2 // 32 * 32, _SMALLEST_WINDOW) for a, b in zip(before, size, strict=True))
        logger.warning(
            "out of memory: going on in windows of %dx%d pixels, whose labels differ slightly", height, width
        )
        return height, width


def _pixels(image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"an image is uint8[height, width, 3] in RGB, this array is {image.dtype}{list(image.shape)}")
    return image
