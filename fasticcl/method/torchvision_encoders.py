"""ResNets and ResNeXts from torchvision, without their classifiers."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet


class ResNetEncoder(ResNet):
    """A ResNet from torchvision that returns features. The arguments are those of torchvision's class."""

    def __init__(self, block: type[BasicBlock | Bottleneck], layers: Sequence[int], **options: Any) -> None:
        super().__init__(block, [*layers], **options)
        self.feature_dim = 512 * block.expansion
        self.fc = nn.Identity()  # pyrefly: ignore[bad-assignment]

    def named_blocks(self) -> Mapping[str, nn.Module]:
        """Return the stem, the four stages and the pooling, see `encoder_blocks.BlockEncoder`."""
        stages = (self.layer1, self.layer2, self.layer3, self.layer4)
        return {
            "stem": nn.Sequential(self.conv1, self.bn1, self.relu, self.maxpool),
            **{f"stage{number}": stage for number, stage in enumerate(stages, start=1)},
            "pool": nn.Sequential(self.avgpool, nn.Flatten()),
        }


def _encoder(
    block: type[BasicBlock | Bottleneck], layers: Sequence[int], **options: Any
) -> tuple[nn.Module, int]:
    encoder = ResNetEncoder(block, layers, **options)
    return encoder, encoder.feature_dim


resnet18 = partial(_encoder, BasicBlock, (2, 2, 2, 2))
resnet34 = partial(_encoder, BasicBlock, (3, 4, 6, 3))
resnet50 = partial(_encoder, Bottleneck, (3, 4, 6, 3))
resnet101 = partial(_encoder, Bottleneck, (3, 4, 23, 3))
resnext50_32x4d = partial(_encoder, Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4)
resnext101_32x8d = partial(_encoder, Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8)
