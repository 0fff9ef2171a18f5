"""Refinement of label maps by a refiner, in tiles that are near a boundary."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn

from openseg.allocator import keep_freed_memory
from openseg.config import Config, load_config
from openseg.datasets.transforms import normalize
from openseg.distributed import pick_device
from openseg.errors import ConfigError, DataError
from openseg.inference.folder import model_settings
from openseg.inference.precision import with_precision
from openseg.inference.predictor import load_for_inference
from openseg.segfix.directions import candidate_steps
from openseg.segfix.votes import undecided, vote

__all__ = ["SHIPPED_REFINER", "RefinerPredictor", "refine_labels"]

SHIPPED_REFINER = Path("configs/refiner/unet_small.safetensors")
"""The refiner that comes with openseg (docs/segfix.md has its model card)."""

_TILE, _HALO = 768, 48
"""Sides of what is computed at once, and what the network sees beyond it, in pixels of the network."""


class RefinerPredictor:
    """``RefinerPredictor()(image, labels)`` gives refined labels.

    Examples:
        >>> import numpy as np, openseg
        >>> image, labels = np.zeros((48, 64, 3), np.uint8), np.zeros((48, 64), np.uint8)
        >>> image[:, 30:] = 200
        >>> labels[:, 32:] = 7
        >>> openseg.RefinerPredictor(device="cpu")(image, labels)[20, 28:34]
        array([0, 0, 7, 7, 7, 7], dtype=uint8)
    """

    def __init__(
        self,
        config: str | os.PathLike | Config | None = None,
        checkpoint: str | os.PathLike | None = None,
        device: str | torch.device = "auto",
    ) -> None:
        """
        Args:
            config: the config, or its YAML file; None is that of the refiner that comes with openseg.
            checkpoint: its weights; None are those that come with openseg.
            device: auto (a GPU if available), cpu, cuda, cuda:1, ...

        Raises:
            ConfigError: the config is not of a refiner, or there is no such device.
            CheckpointError: the checkpoint is damaged, belongs to another network, or contradicts the config.
        """
        if not isinstance(config, Config):
            config = load_config(SHIPPED_REFINER.with_suffix(".yaml") if config is None else Path(config))
        if not config.needs_coarse:
            raise ConfigError(f"{config.name} is a config of task {config.task}, which refines no labels")
        self.device = pick_device(device)
        file = Path(checkpoint or SHIPPED_REFINER)
        self.config = config = with_precision(config, file, self.device)
        self.model, self.report = load_for_inference(config, file, self.device)
        if self.device.type == "cpu":  # tiles of one size after another: a third of the time went into page faults
            keep_freed_memory()

    def __call__(self, image: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Refine ``labels: [H, W]`` (any integers of at most 32 bits) of an RGB image ``uint8[H, W, 3]``.

        Raises:
            DataError: their sizes differ.
        """
        return refine_labels(self.model, self.config, image, labels, self.device)

    @property
    def settings(self) -> dict[str, Any]:
        """Settings that determine the result, besides weights, images and labels."""
        config = self.config
        return {
            "model": model_settings(config),
            "refiner": config.refiner.model_dump(mode="json"),
            "precision": config.test.precision,
            "normalization": config.normalization.model_dump(mode="json"),
        }


@torch.inference_mode()
def refine_labels(
    model: nn.Module, config: Config, image: np.ndarray, labels: np.ndarray, device: torch.device
) -> np.ndarray:
    """Refine ``labels: [H, W]`` of an RGB image ``uint8[H, W, 3]`` with a network in eval mode on ``device``.

    Every pixel gets the label that is most probable among those of its candidates, if it is more probable than its own
    by ``refiner.margin``. Pixels without another label nearby are not computed.

    Raises:
        DataError: the sizes differ.
    """
    if image.shape[:2] != labels.shape:
        raise DataError(f"image {list(image.shape[:2])} and labels {list(labels.shape)} differ in size")
    settings, given = config.refiner, np.ascontiguousarray(labels)
    refined = given.copy()
    factor = settings.upsampling_of(labels.shape)
    numbers = labels if labels.dtype in (np.uint8, np.uint16) else _numbered(labels)
    reach = -(-max(settings.radii) // factor)
    open_pixels = undecided(numbers, reach)
    shown = torch.from_numpy(np.ascontiguousarray(numbers.astype(np.int32, copy=False)))
    steps = candidate_steps(settings.radii)
    for core, seen in _tiles(labels.shape, _TILE // factor, _HALO // factor):
        pixels = np.argwhere(open_pixels[core])
        if not len(pixels):
            continue
        part = _enlarged(image, seen, factor)
        inside = shown[seen].repeat_interleave(factor, 0).repeat_interleave(factor, 1)
        images = normalize(torch.from_numpy(np.array(part.transpose(2, 0, 1)[None])).to(device), config.normalization)
        logits = model(images, inside[None].to(device))[0]
        corner = np.array([core[0].start, core[1].start])
        places = pixels + corner - [seen[0].start, seen[1].start]
        vote(given, pixels + corner, _probabilities(logits, places, factor), steps, factor, settings.margin, refined)
    return refined


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Labels of any values, by their numbers: OpenCV filters no 32-bit integers."""
    return np.unique(labels, return_inverse=True)[1].reshape(labels.shape).astype(np.float32)


def _tiles(size: tuple[int, ...], side: int, halo: int) -> list[tuple[tuple[slice, slice], tuple[slice, slice]]]:
    """Tiles that cover an image, each with what is seen around it."""
    starts = [range(0, length, side) for length in size]
    tiles = []
    for corner in [(y, x) for y in starts[0] for x in starts[1]]:
        core = [slice(start, min(start + side, length)) for start, length in zip(corner, size, strict=True)]
        seen = [
            slice(max(each.start - halo, 0), min(each.stop + halo, length))
            for each, length in zip(core, size, strict=True)
        ]
        tiles.append(((core[0], core[1]), (seen[0], seen[1])))
    return tiles


_REACH = 4  # pixels that a cubic kernel reads beyond the seen ones


def _enlarged(image: np.ndarray, seen: tuple[slice, slice], factor: int) -> np.ndarray:
    """The seen part of the image enlarged as a whole; cubic."""
    if factor == 1:
        return image[seen]
    wide = [slice(max(each.start - _REACH, 0), each.stop + _REACH) for each in seen]
    part = np.ascontiguousarray(image[wide[0], wide[1]])
    large = cv2.resize(part, (part.shape[1] * factor, part.shape[0] * factor), interpolation=cv2.INTER_CUBIC)
    inner = [
        slice((each.start - around.start) * factor, (each.stop - around.start) * factor)
        for each, around in zip(seen, wide, strict=True)
    ]
    return large[inner[0], inner[1]]


def _probabilities(logits: torch.Tensor, places: np.ndarray, factor: int) -> np.ndarray:
    """Of the candidates of pixels at ``places``, ``float32[N, factor * factor, K]``."""
    rows, columns = torch.from_numpy(places * factor).to(logits.device).T
    parts = torch.arange(factor * factor, device=logits.device)
    rows = rows[:, None] + parts // factor
    columns = columns[:, None] + parts % factor
    return logits[:, rows, columns].permute(1, 2, 0).float().softmax(dim=2).cpu().numpy()
