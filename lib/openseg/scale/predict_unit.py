"""Prediction of labels as work on one image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openseg.config import Config
from openseg.datasets.transforms import fit_image
from openseg.errors import ConfigError
from openseg.inference.folder import KINDS, result_settings
from openseg.inference.predictor import Predictor
from openseg.io.files import file_hash
from openseg.io.images import encode_image, encode_label
from openseg.scale.units import Blobs, Done, Unit, dataset_files, hash_of

__all__ = ["Predict", "require_kinds"]


@dataclass
class Predict(Unit):
    """Labels of images."""

    config: Config
    checkpoint: Path
    mode: str = "ss"
    also: tuple[str, ...] = ()
    device: str = "auto"
    roles: tuple[str, ...] = ("image",)
    block: int = 16
    uses_network: bool = True

    def __post_init__(self) -> None:
        if self.config.test.precision == "auto":
            raise ConfigError("the machines of a large source may differ; set test.precision=fp32 or bf16")
        self.files = (self.checkpoint, *dataset_files(self.config.data.dataset))
        self.kinds = {kind: KINDS[kind] for kind in ("label", *self.also)}

    @cached_property
    def predictor(self) -> Predictor:
        """The network."""
        return Predictor(self.config, self.checkpoint, mode=self.mode, device=self.device)  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "predictor"}

    @property
    def made_by(self) -> dict[str, Any]:
        """What determines the results, besides the images."""
        checkpoint = {"checkpoint": file_hash(self.checkpoint)}
        return {"what": "predictions", **checkpoint, **result_settings(self.config, self.mode), "kinds": [*self.kinds]}

    def placed(self, moved: Mapping[Path, Path]) -> None:
        """See ``Unit.placed``."""
        self.checkpoint, *dataset = self.files = tuple(moved[path] for path in self.files)
        if dataset:
            data = self.config.data.model_copy(update={"dataset": str(dataset[0])})
            self.config = self.config.model_copy(update={"data": data})

    def start(self) -> None:
        """Load the network."""
        _ = self.predictor

    def prepare(self, blobs: Blobs) -> tuple[np.ndarray, Any, tuple[int, int]]:
        """Image, planes for the network, and size."""
        (blob,) = blobs
        assert blob is not None
        image = self.config.dataset_info.read_image(blob)
        fitted = fit_image(image, self.config.data)
        planes = torch.from_numpy(np.ascontiguousarray(fitted.transpose(2, 0, 1)))
        return image, planes, (image.shape[0], image.shape[1])

    def compute(self, prepared: tuple[np.ndarray, Any, tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """Image and train IDs."""
        image, planes, size = prepared
        return image, self.predictor.predict(planes, size)[0]

    def finish(self, computed: tuple[np.ndarray, np.ndarray]) -> Done:
        """Encode labels and their visualizations."""
        image, labels = computed
        info = self.config.dataset_info
        outputs = {"label": encode_label(info.decode(labels))}
        if "vis" in self.kinds:
            outputs["vis"] = encode_image(info.colorize(labels), KINDS["vis"])
        if "overlay" in self.kinds:
            outputs["overlay"] = encode_image(info.overlay(info.as_rgb(image), labels), KINDS["overlay"])
        return Done(outputs, {"sha256": hash_of(outputs["label"])})


def require_kinds(also: Sequence[str]) -> tuple[str, ...]:
    """What is written besides labels.

    Raises:
        ConfigError: something that this package does not write.
    """
    for kind in also:
        if kind not in ("vis", "overlay"):
            raise ConfigError(f"'{kind}' cannot be written at this scale; use some of vis, overlay, or none")
    return tuple(also)
