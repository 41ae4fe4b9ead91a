"""Readouts of one network in one pass over the training images."""

import copy
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


def read_out_jointly(
    configs: Sequence[Config],
    network: Network,
    machine: Machine,
    counts: NDArray[np.integer],
    features: Iterable[tuple[torch.Tensor, torch.Tensor]],
) -> list[ReadoutStage]:
    """Return one stage per configuration, with its classifier. All share the encoder.

    Args:
        configs: configurations with readouts and the same data settings.
        network: the network at the end of the representation stage, which is not modified.
        machine: the machine that computes the classifiers.
        counts: [K] training images per class.
        features: features of the training images outside the holdout.
    """
    encoder = network.encoder
    stages = [
        ReadoutStage(config, copy.deepcopy(network, {id(encoder): encoder}), machine, counts, features)
        for config in configs
    ]
    for stage in stages:
        stage.begin_epoch(0)
    return stages
