"""Named blocks of an encoder, for methods that work on its hidden states."""

from collections.abc import Mapping
from typing import Protocol, cast

from torch import nn

from fasticcl.errors import UserError


class BlockEncoder(Protocol):
    """An encoder whose forward pass consists of named blocks."""

    def named_blocks(self) -> Mapping[str, nn.Module]:
        """Return the blocks in the order of the forward pass: stem, stage1, stage2, ..., pool.

        Each stage is a sequence of residual blocks, and ``pool`` turns maps [B, d_g, H, W] into features
        [B, d_g]. The blocks share their parameters with the encoder.
        """
        ...


def named_blocks(encoder: nn.Module) -> Mapping[str, nn.Module]:
    """Return the blocks of an encoder, as `BlockEncoder.named_blocks` describes.

    Raises:
        UserError: the encoder does not define its blocks.
    """
    if not hasattr(encoder, "named_blocks"):
        raise UserError(
            f"The encoder {type(encoder).__name__} has no method named_blocks, which this method of training "
            "needs. Add it as in fasticcl/method/cifar_resnet.py, or choose another method.encoder."
        )
    return cast(BlockEncoder, encoder).named_blocks()
