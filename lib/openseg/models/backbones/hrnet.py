"""HRNet: parallel branches of several resolutions that exchange features throughout.

Paper: Wang et al., "Deep High-Resolution Representation Learning for Visual Recognition", TPAMI 2020.
Key names are those of the authors' ImageNet files. Widths 18, 32 and 48 are the published ones; ``hrnet_tiny`` is
the same code narrower and shorter, for the demo and the tests.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from openseg.models.layers import conv_bn, init_weights, resize_logits

__all__ = ["HRNET_SPECS", "HRNet", "HRNetSpec"]


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
    "hrnet_tiny": HRNetSpec(10, stage_modules=(1, 1, 1), branch_blocks=2, stem_blocks=1),
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


class HRModule(nn.Module):
    """Residual blocks on every branch, then each branch receives the sum of all, resized to it."""

    def __init__(self, widths: list[int], blocks: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(nn.Sequential(*[BasicBlock(width) for _ in range(blocks)]) for width in widths)
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
        features = [branch(x) for branch, x in zip(self.branches, features, strict=True)]
        fused = []
        for target, paths in enumerate(self.fuse_layers):
            size = features[target].shape[-2:]
            total = None
            for source, path in enumerate(paths):
                x = path(features[source])
                if source > target:
                    x = resize_logits(x, size)
                total = x if total is None else total + x
            fused.append(F.relu(total))
        return fused


class HRNet(nn.Module):
    """HRNet without its classification head.

    ``forward(images: float[B, 3, H, W])`` gives four maps at strides 4, 8, 16, 32 with ``channels`` channels.
    """

    def __init__(self, spec: HRNetSpec) -> None:
        super().__init__()
        widths = [spec.width * 2**i for i in range(4)]
        self.channels = widths
        self.conv1, self.bn1 = conv_bn(3, 64, 3, stride=2)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, stride=2)
        blocks = [Bottleneck(64 if i == 0 else 256, 64) for i in range(spec.stem_blocks)]
        self.layer1 = nn.Sequential(*blocks)
        self.transition1 = self._transition([256], widths[:2])
        self.transition2 = self._transition(widths[:2], widths[:3])
        self.transition3 = self._transition(widths[:3], widths)
        for number, modules in enumerate(spec.stage_modules, start=2):
            stage = [HRModule(widths[:number], spec.branch_blocks) for _ in range(modules)]
            setattr(self, f"stage{number}", nn.Sequential(*stage))
        init_weights(self)

    @staticmethod
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

    def forward(self, images: Tensor) -> list[Tensor]:
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        x = F.relu(self.bn2(self.conv2(x)), inplace=True)
        features = [self.layer1(x)]
        for transition, stage in (
            (self.transition1, self.stage2),
            (self.transition2, self.stage3),
            (self.transition3, self.stage4),
        ):
            features = stage(
                [layer(features[min(i, len(features) - 1)]) for i, layer in enumerate(transition)],
            )
        return features
