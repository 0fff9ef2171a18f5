"""Dilated ResNets: the trunk is torchvision's, the stem and the dilation are what segmentation uses.

Papers: He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the dilation and the multi-grid follow
Chen et al., "Rethinking Atrous Convolution", 2017. Stems, by name:

    resnet50, resnet101            deep stem (3x3 convolutions to 64, 64 and 128 channels) and a max-pooling that rounds
                                   sizes up: the OCNet family's ImageNet files and released checkpoints
    resnet50_v1c, resnet101_v1c    deep stem of 32, 32 and 64 channels, the one of OpenMMLab's files
    resnet50_v1b, resnet101_v1b    one 7x7 convolution: torchvision's own ImageNet files
    resnet_tiny                    two blocks a stage at most, for tests
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.layers import conv_bn, init_weights

__all__ = ["RESNET_SPECS", "ResNet", "ResNetSpec"]


@dataclass(frozen=True)
class ResNetSpec:
    """Blocks of each stage, and the widths of the stem's 3x3 convolutions (empty: one 7x7 of 64 channels)."""

    blocks: tuple[int, int, int, int]
    stem: tuple[int, ...]
    ceil_mode: bool = False


_DEPTHS = {"resnet50": (3, 4, 6, 3), "resnet101": (3, 4, 23, 3)}

RESNET_SPECS: dict[str, ResNetSpec] = {
    **{name: ResNetSpec(blocks, (64, 64, 128), ceil_mode=True) for name, blocks in _DEPTHS.items()},
    **{f"{name}_v1c": ResNetSpec(blocks, (32, 32, 64)) for name, blocks in _DEPTHS.items()},
    **{f"{name}_v1b": ResNetSpec(blocks, ()) for name, blocks in _DEPTHS.items()},
    "resnet_tiny": ResNetSpec((1, 1, 2, 1), (64, 64, 128), ceil_mode=True),
}


class Stem(nn.Module):
    """The convolutions before the pooling; the first one has stride 2."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.depth = max(len(widths), 1)
        if not widths:
            self.conv1, self.bn1 = conv_bn(3, 64, 7, stride=2)
        for i, (before, width) in enumerate(zip((3, *widths), widths, strict=False), start=1):
            conv, norm = conv_bn(before, width, 3, stride=2 if i == 1 else 1)
            self.add_module(f"conv{i}", conv)
            self.add_module(f"bn{i}", norm)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(1, self.depth + 1):
            x = F.relu(getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(x)), inplace=True)
        return x


class ResNet(nn.Module):
    """``forward(images: float[B, 3, H, W])`` gives the maps of the four stages.

    Their strides are 4, 8, 8, 8 (``output_stride`` 8) or 4, 8, 16, 16. ``multi_grid`` multiplies the dilation of the
    last stage's blocks.
    """

    def __init__(self, spec: ResNetSpec, output_stride: int = 8, multi_grid: tuple[int, ...] = ()) -> None:
        super().__init__()
        import torchvision  # costs every command more than a second, and only ResNets need it
        from torchvision.models.resnet import Bottleneck

        trunk = torchvision.models.ResNet(
            Bottleneck, list(spec.blocks), replace_stride_with_dilation=[False, output_stride == 8, True]
        )
        self.resinit = Stem(spec.stem)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1, ceil_mode=spec.ceil_mode)
        self.layer1, self.layer2, self.layer3, self.layer4 = trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4
        width = spec.stem[-1] if spec.stem else 64
        if width != 64:
            first = self.layer1[0]
            first.conv1 = nn.Conv2d(width, 64, 1, bias=False)
            first.downsample[0] = nn.Conv2d(width, 256, 1, bias=False)
        for block, factor in zip(self.layer4, multi_grid, strict=False):
            dilation = block.conv2.dilation[0] * factor
            block.conv2.dilation = block.conv2.padding = (dilation, dilation)
        self.channels = [256, 512, 1024, 2048]
        init_weights(self)

    @property
    def head_channels(self) -> tuple[int, int]:
        """Channels of what ``head_inputs`` gives."""
        return self.channels[-2], self.channels[-1]

    @staticmethod
    def head_inputs(features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """What the auxiliary and the main head read: the last two stages, which have the same resolution."""
        return features[-2], features[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.resinit(images))
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        return features
