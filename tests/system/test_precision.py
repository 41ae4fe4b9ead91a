"""Precision of float32 convolutions."""

import pytest
import torch

from fasticcl.system.precision import float32_convolutions

CONVOLUTIONS = torch.backends.cudnn.conv


@pytest.mark.parametrize("allowed", [True, False])
def test_convolutions_are_in_float32_only_inside(allowed):
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        outside = CONVOLUTIONS.fp32_precision
        with float32_convolutions():
            assert CONVOLUTIONS.fp32_precision == "ieee"
        assert CONVOLUTIONS.fp32_precision == outside
        assert torch.backends.cudnn.allow_tf32 == allowed
    finally:
        torch.backends.cudnn.allow_tf32 = before
