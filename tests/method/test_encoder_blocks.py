"""The blocks of the encoders: order, output and shared parameters."""

import pytest
import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method.encoder_blocks import named_blocks
from fasticcl.method.encoders import ENCODERS, build_encoder


@pytest.mark.parametrize("name", ENCODERS)
def test_blocks_applied_in_order_are_the_forward_pass(name):
    encoder, feature_dim = build_encoder(name)
    blocks = named_blocks(encoder.eval())
    stages = [block for block in blocks if block.startswith("stage")]
    assert [*blocks] == ["stem", *(f"stage{number + 1}" for number in range(len(stages))), "pool"]
    x = images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        for block in blocks.values():
            x = block(x)
        assert torch.equal(x, encoder(images))
    assert x.shape == (2, feature_dim)
    parameters = {id(each) for block in blocks.values() for each in block.parameters()}
    assert parameters == {id(each) for each in encoder.parameters()}


def test_encoder_without_blocks_is_rejected():
    with pytest.raises(UserError, match=r"Flatten has no method named_blocks.*choose another method.encoder"):
        named_blocks(nn.Flatten())
