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

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.errors import ConfigError
from openseg.models.base import recompute
from openseg.models.layers import conv_bn, fold_norm

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


# Names of the deep stem's layers in the files of OpenMMLab, and those of the OCNet family and torchvision.
_STEM_NAMES = {"stem.0.": "conv1.", "stem.1.": "bn1.", "stem.3.": "conv2.", "stem.4.": "bn2.", "stem.6.": "conv3."}
_STEM_NAMES |= {"stem.7.": "bn3.", **{f"{kind}{i}.": f"{kind}{i}." for kind in ("conv", "bn") for i in (1, 2, 3)}}


class Stem(nn.Module):
    """The convolutions before the pooling; the first one has stride 2."""

    def __init__(self, widths: tuple[int, ...], in_channels: int = 3) -> None:
        super().__init__()
        self.depth = max(len(widths), 1)
        if not widths:
            self.conv1, self.bn1 = conv_bn(in_channels, 64, 7, stride=2)
        for i, (before, width) in enumerate(zip((in_channels, *widths), widths, strict=False), start=1):
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

    def __init__(
        self,
        spec: ResNetSpec,
        in_channels: int = 3,
        output_stride: Literal[8, 16] = 8,
        multi_grid: Sequence[int] = (),
    ) -> None:
        """
        Raises:
            ConfigError: another ``output_stride`` than 8 or 16, or ``multi_grid`` has not as many entries as the last
                stage has blocks.
        """
        super().__init__()
        if output_stride not in (8, 16):
            raise ConfigError(f"output_stride {output_stride}: a ResNet has 8 or 16")
        if multi_grid and len(multi_grid) != spec.blocks[3]:
            raise ConfigError(f"model.multi_grid: there are {spec.blocks[3]} blocks in the last stage, give as many")
        import torchvision  # costs every command more than a second, and only ResNets need it
        from torchvision.models.resnet import Bottleneck

        trunk = torchvision.models.ResNet(
            Bottleneck, list(spec.blocks), replace_stride_with_dilation=[False, output_stride == 8, True]
        )
        self.resinit = Stem(spec.stem, in_channels)
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
        self.strides = [4, 8, *([8, 8] if output_stride == 8 else [16, 16])]
        self.grad_checkpointing = False
        for layer in self.modules():  # as torchvision does; batch norms are ones and zeros already
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of blocks; the backward pass computes the rest again."""
        self.grad_checkpointing = enable

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        for number in range(1, 1 + self.resinit.depth):
            fold_norm(self.resinit, f"conv{number}", f"bn{number}")
        for block in (block for stage in self._stages for block in stage):
            assert isinstance(block, nn.Module)
            for number in (1, 2, 3):
                fold_norm(block, f"conv{number}", f"bn{number}")
            if isinstance(block.downsample, nn.Module):
                fold_norm(block.downsample, "0", "1")

    def convert_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """An ImageNet file's weights under the names that they have here: the stem has other names in each project."""
        renamed = {}
        for key, value in state.items():
            prefix = next((prefix for prefix in _STEM_NAMES if key.startswith(prefix)), None)
            renamed[key if prefix is None else f"resinit.{_STEM_NAMES[prefix]}{key[len(prefix) :]}"] = value
        return renamed

    def explain_mismatch(self, state: dict[str, Tensor]) -> str:
        """What weights, in the names that they have here, are of instead."""
        stem = state.get("resinit.conv1.weight")
        if stem is None:
            return ""
        kind = "_v1b" if stem.shape[-1] == 7 else "_v1c" if stem.shape[0] == 32 else ""
        return f"its stem is that of the ResNets named {'...' + kind if kind else 'without a suffix'}"

    @property
    def _stages(self) -> tuple[nn.Sequential, ...]:
        return self.layer1, self.layer2, self.layer3, self.layer4

    def forward(self, images: Tensor) -> list[Tensor]:
        x = self.maxpool(self.resinit(images))
        features = []
        for stage in self._stages:
            for block in stage:
                x = recompute(block, block, x) if self.grad_checkpointing else block(x)
            features.append(x)
        return features
