"""The stage after the representation stage: rebalancing, or a readout without training."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.engine.stages.memory import MemoryRebalancing, check_memory
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.method.network import Network
from fasticcl.method.readouts import find_readout
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
        features: features of the training images for a readout or a memory. They are not needed if the stage
            does not begin an epoch.

    Raises:
        UserError: the readout is unknown, or the stage does not support the network.
    """
    if config.rebalance.readout == "none":
        return build_rebalancing(config, network, machine, counts, features)
    return ReadoutStage(config, network, machine, counts, features)


def build_rebalancing(
    config: Config,
    network: Network,
    machine: Machine,
    counts: NDArray[np.integer] | None = None,
    features: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
) -> Rebalancing:
    """Return the second stage of a run that trains it. The arguments are those of `build_second_stage`."""
    if config.rebalance.classifier == "memory":
        return MemoryRebalancing(config, network, machine, counts, features)
    return Rebalancing(config, network, machine, counts)


def check_second_stage(config: Config, network: Network) -> None:
    """Check, before hours of training, that the second stage of a run supports the network.

    Raises:
        UserError: it does not, or the readout is unknown.
    """
    if config.rebalance.readout != "none":
        find_readout(config.rebalance.readout, network.classifier)
    elif config.rebalance.epochs and config.rebalance.classifier == "memory":
        check_memory(config, network)
