"""Feature maps of a frozen backbone, computed once for each training image and memory-mapped (``DecodedCache``)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from openseg.config import Config
from openseg.datasets.cache import DecodedCache
from openseg.errors import DataError

__all__ = ["FeatureStore", "leaves_images_alone"]

_HALF_MAX = 6e4


def leaves_images_alone(config: Config) -> bool:
    """Whether augmentation changes images by nothing but a flip, so that there are two versions of each."""
    augment = config.augment
    changes = augment.scale_range is not None or augment.brightness or augment.transforms or augment.copy_paste
    return not changes and augment.progressive_crop == 1


@dataclass(frozen=True)
class FeatureStore:
    """Features of images, plain and mirrored, as one flat array each, of halves where they suffice.

    Attributes:
        cache: where the arrays are.
        fingerprint: identifies the backbone, its weights and its input.
        shapes: ``[C, h, w]`` of each feature map.
    """

    cache: DecodedCache
    fingerprint: str
    shapes: tuple[tuple[int, int, int], ...]

    @property
    def values(self) -> int:
        """Number of values of one image."""
        return sum(math.prod(shape) for shape in self.shapes)

    def _variant(self, mirrored: bool) -> str:
        return f"features {self.fingerprint}{' mirrored' if mirrored else ''}"

    def has(self, path: Path, mirrored: bool) -> bool:
        """Whether the features of an image are there."""
        return self.cache.find(path, self._variant(mirrored)) is not None

    def read(self, path: Path, mirrored: bool) -> np.ndarray:
        """The features of an image, flat ``float32[N]``.

        Raises:
            DataError: they are not there any more.
        """
        found = self.cache.find(path, self._variant(mirrored))
        if found is None or found.shape != (self.values,):
            raise DataError(f"{path}: its features are gone from {self.cache.folder}; run again to compute them")
        return np.array(found, np.float32)

    def write(self, path: Path, mirrored: bool, maps: list[Tensor]) -> None:
        """Keep the features ``float[C, h, w]`` of an image."""
        flat = torch.cat([each.flatten() for each in maps]).float().cpu().numpy()
        halves = np.abs(flat).max() < _HALF_MAX
        self.cache.get(path, self._variant(mirrored), lambda: flat.astype(np.float16) if halves else flat)

    def unpack(self, batch: Tensor) -> list[Tensor]:
        """``float[B, N]`` -> maps ``float[B, C, h, w]``."""
        parts = batch.split([math.prod(shape) for shape in self.shapes], dim=1)
        return [part.reshape(-1, *shape) for part, shape in zip(parts, self.shapes, strict=True)]
