"""A small U-Net: one feature map at half the image's resolution that sees far around each pixel.

After Ronneberger, Fischer, Brox: "U-Net", MICCAI 2015, with sums of projections in place of concatenations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.layers import conv_bn, fold_sequences

__all__ = ["UNet"]


def _block(in_channels: int, out_channels: int, kernel: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(in_channels, out_channels, kernel, stride), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """``forward(images: float[B, C, H, W])`` gives one map ``float[B, channels[0], ceil(H / 2), ceil(W / 2)]``."""

    def __init__(self, in_channels: int = 3, widths: Sequence[int] = (32, 48, 80, 128)) -> None:
        """
        Args:
            in_channels: of the images.
            widths: channels of each level, the finest (stride 2) first; each has half the resolution of the one before.
        """
        super().__init__()
        self.channels, self.strides = [widths[0]], [2]
        self.stem = _block(4 * in_channels, widths[0], kernel=1)
        self.levels = nn.ModuleList()
        for before, width in zip((None, *widths), widths, strict=False):
            first = _block(width, width) if before is None else _block(before, width, stride=2)
            self.levels.append(nn.Sequential(first, _block(width, width)))
        self.projections = nn.ModuleList(nn.Conv2d(coarse, fine, 1) for fine, coarse in pairwise(widths))

    def forward(self, images: Tensor) -> list[Tensor]:
        height, width = images.shape[-2:]
        multiple = 2 ** len(self.levels)
        images = F.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        maps = [self.stem(F.pixel_unshuffle(images, 2))]
        for level in self.levels:
            maps.append(level(maps[-1]))
        x = maps.pop()
        for project, finer in zip(reversed(self.projections), reversed(maps[1:]), strict=True):  # type: ignore[call-overload]
            x = finer + F.interpolate(project(x), scale_factor=2, mode="bilinear", align_corners=False)
        return [x[..., : (height + 1) // 2, : (width + 1) // 2]]

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        fold_sequences(self)
