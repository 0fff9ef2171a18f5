"""``Predictor``: labels of images from a trained network, for ``main.py`` and Python callers."""

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

from openseg.config import Config, load_config
from openseg.config.tasks import TASKS
from openseg.datasets.info import DatasetInfo
from openseg.datasets.transforms import fit_image
from openseg.distributed import pick_device, set_precision
from openseg.errors import ConfigError, DataError, OpensegError, is_out_of_memory
from openseg.inference import LazyLogits, argmax, predict_scores
from openseg.inference.precision import with_precision
from openseg.inference.prepare import prepare_for_inference
from openseg.inference.runtimes import ExportedNetwork, in_runtime
from openseg.io.exported import is_exported
from openseg.io.images import read_image
from openseg.models.checkpoint.io import KeyReport
from openseg.models.checkpoint.load import load_network

__all__ = ["Prediction", "Predictor", "device_for", "load_for_inference"]

logger = logging.getLogger("openseg")

_SMALLEST_WINDOW = 128


def device_for(config: Config, device: str | torch.device) -> torch.device:
    """The device to predict on; auto is the CPU for runtimes that have nothing else."""
    return pick_device("cpu" if device == "auto" and config.test.runtime != "torch" else device)


def load_for_inference(
    config: Config, checkpoint: str | Path, device: torch.device
) -> tuple[nn.Module, KeyReport | ExportedNetwork]:
    """Load the network of a config for prediction on ``device``, with folded batch norms, in ``test.precision``.

    Returns:
        The network, and what tells how it was loaded: an exported one tells of itself.

    Raises:
        CheckpointError: the file is damaged, belongs to another network, or contradicts the config.
    """
    if is_exported(checkpoint):
        exported = ExportedNetwork(Path(checkpoint), config, device)
        return exported, exported
    set_precision(device, config.test.precision)
    model, report = load_network(config, checkpoint)
    runtime = config.test.runtime
    if runtime != "torch":
        if not config.outputs:
            raise ConfigError(f"test.runtime={runtime}: a network of task {config.task} runs in torch alone")
        channels, precision = config.dataset_info.channels, config.test.precision
        model = prepare_for_inference(model)
        return in_runtime(model, runtime, device, precision, channels, config.needs_targets), report
    dtype = torch.bfloat16 if config.test.precision == "bf16" else torch.float32
    model = prepare_for_inference(model.to(device), dtype)
    if config.test.compile:
        model = torch.compile(model)  # type: ignore[assignment]
    return model, report


@dataclass(frozen=True)
class Prediction:
    """The labels of one image: train IDs ``uint8[H, W]``, positions in ``info.classes``."""

    labels: np.ndarray
    image: np.ndarray
    dataset_info: DatasetInfo

    @property
    def ids(self) -> np.ndarray:
        """The dataset's own ids, ``uint8[H, W]``."""
        return self.dataset_info.decode(self.labels)

    @property
    def colors(self) -> np.ndarray:
        """RGB ``uint8[H, W, 3]``."""
        return self.dataset_info.colorize(self.labels)

    @property
    def overlay(self) -> np.ndarray:
        """The colors over the image, RGB ``uint8[H, W, 3]``."""
        return self.dataset_info.overlay(self.image, self.labels)


class Predictor:
    """``Predictor(config, checkpoint)(image)`` gives the labels of an image at its own size.

    When memory runs out, the image is predicted in overlapping windows of decreasing size, with a warning; labels then
    differ slightly, since each window has less context.
    """

    def __init__(
        self,
        config: str | os.PathLike | Config,
        checkpoint: str | os.PathLike | None = None,
        *,
        mode: Literal["ss", "ms"] = "ss",
        device: str | torch.device = "auto",
        overrides: Sequence[str] = (),
        windows_when_full: bool = True,
    ) -> None:
        """
        Args:
            config: the config, its YAML file, or an exported network (``.onnx``).
            checkpoint: weights of any layout that we know; ``configs/demo/hrnet_tiny_ocr.safetensors`` comes with
                openseg. None: the exported network.
            mode: single-scale, or multi-scale and mirrored; see ``test`` of the config.
            device: auto (a GPU if available), cpu, cuda, cuda:1, ...
            overrides: ``dotted.key=value`` of the config.
            windows_when_full: False raises when memory runs out.

        Raises:
            ConfigError: the config cannot be read, is of SegFix, or there is no such device.
            CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the config.
        """
        if isinstance(config, Config) and overrides:
            raise ConfigError("overrides require a config file; this config is already loaded")
        self.config = config if isinstance(config, Config) else load_config(Path(config), overrides)
        if not self.config.predicts_labels:
            task = self.config.task
            raise ConfigError(
                f"{self.config.name} is a config of task {task}, which predicts no labels of images; use the command "
                f"'{TASKS[task].command}'"
            )
        self.device = device_for(self.config, device)
        self.mode = mode
        if checkpoint is None and not is_exported(config):
            raise ConfigError(f"{self.config.name}: give the checkpoint")
        file = Path(checkpoint or str(config))
        self.config = with_precision(self.config, file, self.device, mode)
        self.model, self.report = load_for_inference(self.config, file, self.device)
        if mode == "ms":
            self.require_logits("mode ms sums")
        self._windows_when_full = windows_when_full
        self._limit: tuple[int, int] | None = None

    def __call__(self, image: np.ndarray | Image.Image | str | os.PathLike) -> Prediction:
        """The labels of one image: RGB ``uint8[H, W, 3]``, a PIL image, or a file.

        With a dataset of bands, an array is ``[H, W, C]`` with values as in its files.

        Raises:
            DataError: the file cannot be read, or the array is of another kind.
        """
        info = self.config.dataset_info
        pixels = _bands(image, info) if info.bands else _pixels(image)
        fitted = fit_image(pixels, self.config.data)
        planes = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
        labels, _ = self.predict(planes, pixels.shape[:2])
        return Prediction(labels, info.as_rgb(pixels), info)

    @torch.inference_mode()
    def predict(self, image: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, LazyLogits]:
        """Train IDs ``uint8[*size]`` and logits of an image ``uint8[3, H, W]`` of the size that the network takes.

        Raises:
            OpensegError: memory runs out even in small windows.
        """
        labels, rows = self._predict(image[None], size)
        return labels[0], rows

    @torch.inference_mode()
    def predict_batch(self, images: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
        """Train IDs ``uint8[B, *size]`` of images ``[B, C, H, W]``, see ``predict``."""
        return self._predict(images, size)[0]

    def _predict(self, images: torch.Tensor, size: tuple[int, int]) -> tuple[np.ndarray, LazyLogits]:
        images = images.to(self.device, non_blocking=True)
        while True:
            try:
                rows = predict_scores(self.model, images, self.config, self.mode, size, self._limit)
                return argmax(rows, len(images)).cpu().numpy(), rows
            except (RuntimeError, MemoryError) as error:
                if not self._windows_when_full or not is_out_of_memory(error):
                    raise
            # Here the error is gone, and with it what its frames held.
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self._limit = self._smaller((images.shape[-2], images.shape[-1]))

    def require_logits(self, what: str) -> None:
        """Raises ConfigError, saying ``what`` needs them, if the network is an exported one that gives labels alone."""
        if isinstance(self.model, ExportedNetwork) and self.model.gives_labels:
            raise ConfigError(f"{self.config.name}: {what} logits, this network gives labels; export it with logits")

    def _smaller(self, size: tuple[int, int]) -> tuple[int, int]:
        before = self._limit or self.config.test.window or size
        if max(before) <= _SMALLEST_WINDOW:
            raise OpensegError(f"out of memory even in windows of {before[0]}x{before[1]} pixels; free some, or resize")
        height, width = (max(min(a, b) // 2 // 32 * 32, _SMALLEST_WINDOW) for a, b in zip(before, size, strict=True))
        logger.warning(
            "out of memory: predicting windows of %dx%d pixels, which changes labels slightly", height, width
        )
        return height, width


def _bands(image: np.ndarray | Image.Image | str | os.PathLike, info: DatasetInfo) -> np.ndarray:
    """Normalized bands ``float32[H, W, C]``."""
    if isinstance(image, (str, os.PathLike)):
        return info.read_image(image)
    values = np.asarray(image)
    values = values[..., None] if values.ndim == 2 else values
    if values.ndim != 3 or values.shape[2] != info.channels or not values.size or values.dtype.kind not in "uif":
        raise DataError(
            f"an image of {info.name} is an array [height, width, {info.channels}], this one is "
            f"{values.dtype}{list(values.shape)}"
        )
    return info.normalize_bands(values)


def _pixels(image: np.ndarray | Image.Image | str | os.PathLike) -> np.ndarray:
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    if not isinstance(image, np.ndarray):
        return read_image(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise DataError(f"an image is uint8[height, width, 3] in RGB, this array is {image.dtype}{list(image.shape)}")
    return image
