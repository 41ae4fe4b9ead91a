"""The CNN encoders by name (section 3.1). A new one is a file beside this one and a line here."""

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import torchvision
from torch import nn

from fasticcl.errors import UserError, nearest
from fasticcl.method.cifar_resnet import CifarResNet


def _of_torchvision(name: str) -> tuple[nn.Module, int]:
    network = torchvision.models.get_model(name, weights=None)
    classifier = network.fc
    assert isinstance(classifier, nn.Linear)
    network.fc = nn.Identity()
    return network, classifier.in_features


def _of_cifar(depth: int) -> tuple[nn.Module, int]:
    encoder = CifarResNet(depth)
    return encoder, encoder.feature_dim


ENCODERS: Mapping[str, Callable[[], tuple[nn.Module, int]]] = MappingProxyType(
    {
        "resnet8": partial(_of_cifar, 8),
        "resnet14": partial(_of_cifar, 14),
        "resnet20": partial(_of_cifar, 20),
        "resnet32": partial(_of_cifar, 32),
        "resnet18": partial(_of_torchvision, "resnet18"),
        "resnet34": partial(_of_torchvision, "resnet34"),
        "resnet50": partial(_of_torchvision, "resnet50"),
        "resnet101": partial(_of_torchvision, "resnet101"),
        "resnext50_32x4d": partial(_of_torchvision, "resnext50_32x4d"),
        "resnext101_32x8d": partial(_of_torchvision, "resnext101_32x8d"),
    }
)
"""Each returns a fresh encoder, which turns images [B, 3, S, S] into features [B, d_g], and d_g."""


def build_encoder(name: str) -> tuple[nn.Module, int]:
    """Return an encoder with fresh weights and the size d_g of its feature (section 3.1).

    Raises:
        UserError: no such encoder.
    """
    if name not in ENCODERS:
        raise UserError(f"There is no encoder {name!r}. {nearest(name, ENCODERS)}")
    return ENCODERS[name]()
