"""Shortcuts of the residual blocks."""

import pytest
import torch
from torch import nn

from fasticcl.method.cifar_resnet import BasicBlock


@pytest.mark.parametrize(("in_channels", "channels"), [(16, 32), (32, 64)])
@pytest.mark.parametrize("side", [8, 7])
def test_downsampling_shortcut_subsamples_pixels_and_pads_channels(in_channels, channels, side):
    block = BasicBlock(in_channels, channels, stride=2)
    nn.init.zeros_(block.bn2.weight)  # only the shortcut remains
    x = torch.rand(2, in_channels, side, side)
    rows = (side + 1) // 2
    zeros = torch.zeros(2, (channels - in_channels) // 2, rows, rows)
    assert torch.equal(block(x), torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1))


def test_shortcut_without_downsampling_is_the_identity():
    block = BasicBlock(16, 16, stride=1)
    x = torch.randn(2, 16, 8, 8)
    residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (x + residual).relu())
