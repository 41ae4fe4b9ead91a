"""The bilateral-branch network (BBN, Zhou et al., CVPR 2020): two tails whose logits are mixed.

The conventional tail sees class-agnostic images x_h and the re-balancing tail class-aware images x_t. The
weight α moves the training from the first to the second (cumulative learning).
"""

import torch
from torch import nn

from fasticcl.method.network import Network
from fasticcl.method.two_tails import TwoTailEncoder

_DIVISORS = {90: 100, 180: 200}
"""Divisors of the official code for the lengths on iNaturalist, which differ from the number of epochs."""


def conventional_weight(epoch: int, epochs: int) -> float:
    """Return α = 1 - ((epoch - 1) / D)², the weight of the conventional tail in an epoch.

    D is the number of epochs, except that it is 100 for 90 epochs and 200 for 180 epochs.

    Args:
        epoch: the epoch, counted from 1.
        epochs: number of epochs of the stage.
    """
    return 1 - ((epoch - 1) / _DIVISORS.get(epochs, epochs)) ** 2


class BilateralNetwork(nn.Module):
    """A network with two tails, whose forward pass in training has an image for each tail.

    Args:
        network: the network, whose encoder is a `TwoTailEncoder`.
    """

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_h: torch.Tensor, x_t: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of the features [2α·f_h, 2(1 - α)·f_t].

        For α = 1/2, these are the features of evaluation. The trunk processes the streams one after
        the other, each with its own batch statistics.

        Args:
            x_h: [B, 3, S, S] class-agnostic images.
            x_t: [B, 3, S, S] class-aware images.
            alpha: α, a scalar.
        """
        encoder = self.network.encoder
        assert isinstance(encoder, TwoTailEncoder)
        f_h, f_t = encoder.conventional_features(x_h), encoder.rebalancing_features(x_t)
        return self.network.classifier(torch.cat([2 * alpha * f_h, 2 * (1 - alpha) * f_t], dim=1))


def bilateral_loss(loss_h: torch.Tensor, loss_t: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Return α·l(y_h) + (1 - α)·l(y_t), where l(y) is the loss of the mixed logits for the classes y."""
    return alpha * loss_h + (1 - alpha) * loss_t
