"""Encoders by name: depth, feature size, and the error for an unknown name."""

import pytest
import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method.encoders import build_encoder


@pytest.mark.parametrize(
    ("name", "convolutions"), [("resnet8", 7), ("resnet14", 13), ("resnet20", 19), ("resnet32", 31)]
)
def test_name_of_a_cifar_encoder_gives_its_number_of_layers(name, convolutions):
    encoder, _ = build_encoder(name)  # the classifier is the last layer of the count
    assert sum(isinstance(m, nn.Conv2d) for m in encoder.modules()) == convolutions


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet8", 64), ("resnet32", 64), ("resnet18", 512), ("resnet50", 2048), ("resnext50_32x4d", 2048)],
)
def test_features_have_the_declared_size(name, size):
    encoder, feature_dim = build_encoder(name)
    with torch.no_grad():
        assert encoder.eval()(torch.randn(2, 3, 32, 32)).shape == (2, size)
    assert feature_dim == size


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet-32", r"Did you mean resnet32\?"),
        ("resnext50-32x4d", r"Did you mean resnext50_32x4d\?"),
        ("vit", r"Known: resnet8, .*resnext101_32x8d\."),
    ],
)
def test_unknown_encoder_is_rejected_with_a_suggestion(name, hint):
    with pytest.raises(UserError, match=rf"'{name}'\. {hint}"):
        build_encoder(name)
