"""HRNet: parallel branches of several resolutions that exchange features throughout.

Paper: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020.
Key names are those of the authors' ImageNet files. Widths 18, 32, 48 and 64 are the published ones; ``hrnet_small`` and
``hrnet_tiny`` are the same code with fewer modules: the one learns SegFix of small images on a CPU in about a third of
HRNet-W18's time, the other is for the demo and the tests.

HRNeXt (``hrnext20``; also known as HRNet2x or Higher-HRNet) has no second stride-2 convolution and one more branch: its
finest map is at stride 2. It is the backbone of the stronger SegFix networks (ECCV 2020).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.base import recompute
from openseg.models.layers import conv_bn, fold_norm, fold_sequences, resize_logits

__all__ = ["HRNET_SPECS", "HRNEXT_SPECS", "HRNeXt", "HRNet", "HRNetSpec"]


@dataclass(frozen=True)
class HRNetSpec:
    """Shape of an HRNet: ``width`` channels on the finest branch, doubled on each coarser one."""

    width: int
    stage_modules: tuple[int, int, int] = (1, 4, 3)
    branch_blocks: int = 4
    stem_blocks: int = 4


HRNET_SPECS: dict[str, HRNetSpec] = {
    "hrnet18": HRNetSpec(18),
    "hrnet32": HRNetSpec(32),
    "hrnet48": HRNetSpec(48),
    "hrnet64": HRNetSpec(64),
    "hrnet_small": HRNetSpec(24, stage_modules=(1, 1, 1), stem_blocks=1),
    "hrnet_tiny": HRNetSpec(10, stage_modules=(1, 1, 1), branch_blocks=2, stem_blocks=1),
}
HRNEXT_SPECS: dict[str, HRNetSpec] = {
    "hrnext20": HRNetSpec(20),
    "hrnet2x20": HRNetSpec(20),  # the later name of the same network
    "hrnext_tiny": HRNetSpec(8, stage_modules=(1, 1, 1), branch_blocks=1, stem_blocks=1),
}


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection; channels and resolution stay."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv_bn(channels, channels, 3)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + x, inplace=True)

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        for number in (1, 2):
            fold_norm(self, f"conv{number}", f"bn{number}")


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 convolutions with a residual connection; four times ``channels`` come out."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1, self.bn1 = conv_bn(in_channels, channels, 1)
        self.conv2, self.bn2 = conv_bn(channels, channels, 3)
        self.conv3, self.bn3 = conv_bn(channels, out_channels, 1)
        self.downsample = (
            nn.Sequential(*conv_bn(in_channels, out_channels, 1)) if in_channels != out_channels else nn.Identity()
        )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x), inplace=True)

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        for number in (1, 2, 3):
            fold_norm(self, f"conv{number}", f"bn{number}")


class HRModule(nn.Module):
    """Residual blocks on every branch, then each branch receives the sum of all, resized to it."""

    def __init__(self, widths: list[int], blocks: int, block: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.branches = nn.ModuleList(nn.Sequential(*[block(width) for _ in range(blocks)]) for width in widths)
        self.fuse_layers = nn.ModuleList(
            nn.ModuleList(self._path(widths, source, target) for source in range(len(widths)))
            for target in range(len(widths))
        )

    @staticmethod
    def _path(widths: list[int], source: int, target: int) -> nn.Module:
        if source == target:
            return nn.Identity()
        if source > target:  # coarse to fine: the bilinear resize follows in forward
            return nn.Sequential(*conv_bn(widths[source], widths[target], 1))
        steps: list[nn.Module] = []
        for step in range(target - source):
            last = step == target - source - 1
            layers = conv_bn(widths[source], widths[target] if last else widths[source], 3, stride=2)
            steps.append(nn.Sequential(*layers, *([] if last else [nn.ReLU(inplace=True)])))
        return nn.Sequential(*steps)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        return recompute(self, self._exchange, features) if self.grad_checkpointing else self._exchange(features)

    def _exchange(self, features: list[Tensor]) -> list[Tensor]:
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fused = []
        for target, paths in enumerate(self.fuse_layers):
            assert isinstance(paths, nn.ModuleList)
            size = features[target].shape[-2:]
            received = []
            for source, path in enumerate(paths):
                x = path(features[source])
                received.append(resize_logits(x, size) if source > target else x)
            fused.append(F.relu(functools.reduce(torch.add, received)))
        return fused


class _HighResolution(nn.Module):
    """The stages that HRNet and HRNeXt share: each begins with a transition that adds one branch."""

    channels: list[int]
    strides: list[int]
    stem_convolutions: int

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only the inputs of modules and of the stem's blocks; the backward pass computes the rest again."""
        self.grad_checkpointing = enable
        for module in self.modules():
            if isinstance(module, HRModule):
                module.grad_checkpointing = enable

    def fuse(self) -> None:
        """Fold batch norms into their convolutions, for inference."""
        for number in range(1, 1 + self.stem_convolutions):
            fold_norm(self, f"conv{number}", f"bn{number}")
        for block in [each for each in self.modules() if isinstance(each, (BasicBlock, Bottleneck))]:
            block.fuse()
        fold_sequences(self)

    def _add_stages(self, before: list[int], stages: list[list[int]], spec: HRNetSpec) -> None:
        """Stages 2, 3, 4 with ``stages[i]`` channels on their branches, after branches of ``before`` channels."""
        self.channels = stages[-1]
        for number, widths in enumerate(stages, start=1):
            self.add_module(f"transition{number}", _transition(before, widths))
            before = widths
        for number, (widths, count) in enumerate(zip(stages, spec.stage_modules, strict=True), start=2):
            modules = [HRModule(widths, spec.branch_blocks, BasicBlock) for _ in range(count)]
            self.add_module(f"stage{number}", nn.Sequential(*modules))

    def _run_stages(self, features: list[Tensor]) -> list[Tensor]:
        for number in (2, 3, 4):
            transition = getattr(self, f"transition{number - 1}")  # torch.export of PyTorch 2.6 has no get_submodule
            assert isinstance(transition, nn.ModuleList)
            features = _widen(transition, features)
            features = getattr(self, f"stage{number}")(features)
        return features


def _transition(before: list[int], after: list[int]) -> nn.ModuleList:
    layers: list[nn.Module] = []
    for i, width in enumerate(after):
        if i >= len(before):  # a new branch starts from the coarsest one
            down = nn.Sequential(*conv_bn(before[-1], width, 3, stride=2), nn.ReLU(inplace=True))
            layers.append(nn.Sequential(down))
        elif before[i] != width:
            layers.append(nn.Sequential(*conv_bn(before[i], width, 3), nn.ReLU(inplace=True)))
        else:
            layers.append(nn.Identity())
    return nn.ModuleList(layers)


def _widen(transition: nn.ModuleList, features: list[Tensor]) -> list[Tensor]:
    return [layer(features[min(i, len(features) - 1)]) for i, layer in enumerate(transition)]


class HRNet(_HighResolution):
    """HRNet without its classification head.

    ``forward(images: float[B, C, H, W])`` gives four maps at strides 4, 8, 16, 32 with ``channels`` channels.
    """

    stem_convolutions = 2

    def __init__(self, spec: HRNetSpec, in_channels: int = 3) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.strides = [4, 8, 16, 32]
        widths = [spec.width * 2**i for i in range(4)]
        self.conv1, self.bn1 = conv_bn(in_channels, 64, 3, stride=2)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, stride=2)
        self.layer1 = nn.Sequential(*[Bottleneck(64 if i == 0 else 256, 64) for i in range(spec.stem_blocks)])
        self._add_stages([256], [widths[:2], widths[:3], widths], spec)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        for block in self.layer1:
            x = recompute(block, block, x) if self.grad_checkpointing else block(x)
        return self._run_stages([x])


class HRNeXt(_HighResolution):
    """HRNeXt without its classification head.

    ``forward(images: float[B, C, H, W])`` gives five maps at strides 2, 4, 8, 16, 32 with ``channels`` channels.
    """

    stem_convolutions = 1

    def __init__(self, spec: HRNetSpec, in_channels: int = 3) -> None:
        super().__init__()
        self.grad_checkpointing = False
        self.strides = [2, 4, 8, 16, 32]
        widths = [spec.width * 2**i for i in range(5)]
        before = [128, 256]
        self.conv1, self.bn1 = conv_bn(in_channels, 64, 3, stride=2)
        self.transition0 = _transition([64], before)
        module = HRModule(before, spec.stem_blocks, lambda width: Bottleneck(width, width // Bottleneck.expansion))
        self.stage1 = nn.Sequential(module)
        self._add_stages(before, [widths[:3], widths[:4], widths], spec)

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        return self._run_stages(self.stage1(_widen(self.transition0, [x])))
