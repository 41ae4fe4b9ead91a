"""The stage after the representation stage: rebalancing, or a readout without training."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


def build_second_stage(
    config: Config,
    network: Network,
    machine: Machine,
    counts: NDArray[np.integer],
    features: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
) -> Rebalancing | ReadoutStage:
    """Return the second stage of a run.

    Args:
        config: configuration of the run.
        network: the trained network of the representation stage.
        machine: device and ranks.
        counts: [K] training images per class.
        features: features of the training images for a readout. They are not needed if the stage does not
            begin an epoch.

    Raises:
        UserError: the readout is unknown or does not support the classifier.
    """
    if config.rebalance.readout == "none":
        return Rebalancing(config, network, machine, counts)
    return ReadoutStage(config, network, machine, counts, features)
