"""An encoder whose last residual block exists twice (BBN, Zhou et al., 2020)."""

from collections import OrderedDict
from collections.abc import Mapping

import torch
from torch import nn

from fasticcl.method.encoder_blocks import named_blocks
from fasticcl.method.encoders import build_encoder


class TwoTailEncoder(nn.Module):
    """Encoder with a shared trunk and two tails, which start from different weights.

    The trunk is another encoder without its last residual block. A tail is such a block. The features of both
    tails are pooled and concatenated, so they have the size 2·d_g.

    Args:
        encoder: name of the other encoder.

    Raises:
        UserError: the other encoder is unknown or does not define its blocks.
    """

    def __init__(self, encoder: str) -> None:
        super().__init__()
        module, feature_dim = build_encoder(encoder)
        self.feature_dim = 2 * feature_dim
        self.trunk, self.conventional, self.pool = _split(module)
        self.rebalancing = _split(build_encoder(encoder)[0])[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return features [B, 2·d_g] of images [B, 3, H, W]: those of both tails, concatenated."""
        maps = self.trunk(x)
        return torch.cat([self.pool(self.conventional(maps)), self.pool(self.rebalancing(maps))], dim=1)

    def conventional_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [B, d_g] of the conventional tail."""
        return self.pool(self.conventional(self.trunk(x)))

    def rebalancing_features(self, x: torch.Tensor) -> torch.Tensor:
        """Return the features [B, d_g] of the re-balancing tail."""
        return self.pool(self.rebalancing(self.trunk(x)))


def _split(encoder: nn.Module) -> tuple[nn.Sequential, nn.Module, nn.Module]:
    """Return the trunk, the last residual block and the pooling of an encoder."""
    blocks = {**named_blocks(encoder)}
    pool = blocks.pop("pool")
    name, stage = blocks.popitem()
    *others, (_, last) = stage.named_children()
    if others:  # a stage of one block leaves nothing in the trunk
        blocks[name] = nn.Sequential(OrderedDict(others))
    return nn.Sequential(OrderedDict(blocks)), last, pool


def has_two_tails(state: Mapping[str, torch.Tensor]) -> bool:
    """Return True if this is the state dict of a network whose encoder has two tails."""
    return any(name.startswith("encoder.rebalancing.") for name in state)
