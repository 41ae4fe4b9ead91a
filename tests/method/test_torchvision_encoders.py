"""The architecture of the encoders from torchvision."""

import pytest
import torch
import torchvision

from fasticcl.method.encoders import ENCODERS, build_encoder


@pytest.mark.parametrize("name", [name for name in ENCODERS if hasattr(torchvision.models, name)])
def test_encoder_has_the_architecture_of_torchvision(name):
    with torch.device("meta"):
        expected = getattr(torchvision.models, name)(weights=None).state_dict()
        encoder, _ = build_encoder(name)
    shapes = {key: value.shape for key, value in expected.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in encoder.state_dict().items()} == shapes
