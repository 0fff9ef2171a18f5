"""A network as other programs run it: from an image as it is to logits, labels or offsets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from openseg.config import Config
from openseg.errors import ConfigError
from openseg.inference.boundary import offset_codes
from openseg.models.layers import resize_logits

__all__ = ["Exportable", "Scaling"]


class Scaling(nn.Module):
    """Between images as they are in files, RGB or bands ``float[B, C, H, W]``, and the network's normalized input."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.mean: Tensor
        self.std: Tensor
        normalization, bands = config.normalization, config.dataset_info.bands
        self.channels = config.dataset_info.channels
        self.order = [*range(self.channels)] if bands or normalization.order == "rgb" else [2, 1, 0]
        self.scale = 1.0 if bands else normalization.scale
        for name in ("mean", "std"):
            given = [getattr(band, name) for band in bands] or getattr(normalization, name)
            values = torch.tensor(given, dtype=torch.float32).view(1, -1, 1, 1)
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """The network's input."""
        return (images[:, self.order] / self.scale - self.mean) / self.std

    def undone(self, inputs: Tensor) -> Tensor:
        """The images that give ``inputs``, up to rounding."""
        return ((inputs * self.std + self.mean) * self.scale)[:, self.order]


class Exportable(nn.Module):
    """``forward(images: float[B, C, H, W])``: RGB from 0 to 255, or bands as in files, in one pass at their size.

    It gives ``logits: float[B, K, H, W]``, ``labels: uint8[B, H, W]`` (train IDs), or ``offsets: uint8[B, H, W]``
    (codes of ``OffsetMap``).
    """

    def __init__(self, model: nn.Module, config: Config, output: str, resize: bool = True, uint8: bool = False) -> None:
        """
        Args:
            model: prepared for inference.
            resize: False gives logits at the network's own stride.
            uint8: images are ``uint8[B, H, W, 3]`` instead, as they are decoded.

        Raises:
            ConfigError: the task has no such output, or such images.
        """
        super().__init__()
        if output not in config.outputs:
            known = " or ".join(config.outputs)
            raise ConfigError(f"a network of task {config.task} gives {known}, not {output}")
        if not resize and output != "logits":
            raise ConfigError(f"--no-resize is about logits, not about {output}")
        if uint8 and config.dataset_info.bands:
            raise ConfigError(f"--uint8 is about RGB images; those of {config.dataset_info.name} have bands")
        self.model = model
        self.config = config
        self.output = output
        self.scaling = Scaling(config)
        self.channels = self.scaling.channels
        self.resize, self.uint8 = resize, uint8

    def example(self, batch: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """Random images with values that occur."""
        noise = torch.rand(batch, self.channels, *size, generator=generator)
        if self.config.dataset_info.bands:
            return (4 * noise - 2) * self.scaling.std + self.scaling.mean
        return self.as_input(255 * noise)

    def as_input(self, images: Tensor) -> Tensor:
        """``images: float[B, C, H, W]`` in the layout that the network takes."""
        return images.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1) if self.uint8 else images

    def forward(self, images: Tensor) -> Tensor:
        if self.uint8:
            images = images.permute(0, 3, 1, 2).float()
        size = images.shape[-2:]
        inputs = self.scaling(images)
        if self.output == "offsets":
            found = self.model(inputs)
            boundary = resize_logits(found.mask_logits.float().softmax(dim=1)[:, 1:], size)[:, 0]
            return offset_codes(boundary, resize_logits(found.direction_logits.float(), size), self.config)
        logits = self.model(inputs, aux=False).logits.float()
        if not self.resize:
            return logits
        logits = resize_logits(logits, size)
        return logits.argmax(dim=1).to(torch.uint8) if self.output == "labels" else logits
