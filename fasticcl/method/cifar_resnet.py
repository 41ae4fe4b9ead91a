"""ResNets for CIFAR-sized images (He et al., 2016)."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Residual block with two 3×3 convolutions and a parameter-free shortcut (option A of He et al.)."""

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride, self.extra = stride, channels - in_channels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, channels, H / stride, W / stride] for x of [B, in_channels, H, W]."""
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        if self.extra:
            before = self.extra // 2
            shortcut = F.pad(shortcut, (0, 0, 0, 0, before, self.extra - before))
        return F.relu(out + shortcut)


class GlobalAveragePool(nn.Module):
    """Mean over all positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return [B, C] for x of [B, C, H, W]."""
        return x.mean(dim=(2, 3))


class CifarResNet(nn.Module):
    """ResNet with 6n + 2 layers in three stages of 16, 32 and 64 channels. The feature size d_g is 64.

    Args:
        depth: number of layers, 6n + 2, including the classifier.
    """

    feature_dim = 64

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.per_stage = per_stage = (depth - 2) // 6
        self.conv = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        blocks, channels = [], 16
        for stage, width in enumerate((16, 32, 64)):
            for index in range(per_stage):
                blocks.append(BasicBlock(channels, width, stride=2 if stage and not index else 1))
                channels = width
        self.blocks = nn.Sequential(*blocks)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [B, 64] of images [B, 3, H, W]."""
        x = self.blocks(F.relu(self.bn(self.conv(x))))
        return x.mean(dim=(2, 3))

    def named_blocks(self) -> Mapping[str, nn.Module]:
        """Return the stem, the three stages and the pooling, see `encoder_blocks.BlockEncoder`."""
        starts = range(0, len(self.blocks), self.per_stage)
        stages = [self.blocks[start : start + self.per_stage] for start in starts]
        return {
            "stem": nn.Sequential(self.conv, self.bn, nn.ReLU()),
            **{f"stage{number}": stage for number, stage in enumerate(stages, start=1)},
            "pool": GlobalAveragePool(),
        }


def _encoder(depth: int) -> tuple[nn.Module, int]:
    encoder = CifarResNet(depth)
    return encoder, encoder.feature_dim


resnet8 = partial(_encoder, 8)
resnet14 = partial(_encoder, 14)
resnet20 = partial(_encoder, 20)
resnet32 = partial(_encoder, 32)
