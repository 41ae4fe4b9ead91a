"""ResNets and ResNeXts from torchvision, without their classifiers."""

from functools import partial

import torchvision
from torch import nn


def _encoder(name: str) -> tuple[nn.Module, int]:
    network = torchvision.models.get_model(name, weights=None)
    classifier = network.fc
    assert isinstance(classifier, nn.Linear)
    network.fc = nn.Identity()
    return network, classifier.in_features


resnet18 = partial(_encoder, "resnet18")
resnet34 = partial(_encoder, "resnet34")
resnet50 = partial(_encoder, "resnet50")
resnet101 = partial(_encoder, "resnet101")
resnext50_32x4d = partial(_encoder, "resnext50_32x4d")
resnext101_32x8d = partial(_encoder, "resnext101_32x8d")
