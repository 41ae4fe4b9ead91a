"""CNN encoders by name (section 3.1). To add one, write a module here and add a line to `ENCODERS`."""

from collections.abc import Callable

from torch import nn

from fasticcl.errors import UserError, nearest
from fasticcl.registry import Registry

Encoder = tuple[nn.Module, int]
"""A randomly initialised module that maps images [B, 3, S, S] to features [B, d_g], and d_g."""

ENCODERS: Registry[Callable[[], Encoder]] = Registry(
    "fasticcl.method",
    {
        "resnet8": "cifar_resnet.resnet8",
        "resnet14": "cifar_resnet.resnet14",
        "resnet20": "cifar_resnet.resnet20",
        "resnet32": "cifar_resnet.resnet32",
        "resnet18": "torchvision_encoders.resnet18",
        "resnet34": "torchvision_encoders.resnet34",
        "resnet50": "torchvision_encoders.resnet50",
        "resnet101": "torchvision_encoders.resnet101",
        "resnext50_32x4d": "torchvision_encoders.resnext50_32x4d",
        "resnext101_32x8d": "torchvision_encoders.resnext101_32x8d",
    },
)


def find_encoder(name: str) -> Callable[[], Encoder]:
    """Return the function that creates an encoder.

    Raises:
        UserError: the encoder is unknown.
    """
    if name not in ENCODERS:
        raise UserError(f"There is no encoder {name!r}. {nearest(name, ENCODERS)}")
    return ENCODERS[name]


def build_encoder(name: str) -> Encoder:
    """Return a randomly initialised encoder and its feature size d_g (section 3.1).

    Raises:
        UserError: the encoder is unknown.
    """
    return find_encoder(name)()
