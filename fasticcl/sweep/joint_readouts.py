"""Readouts of one network in one pass over the training images."""

import copy
from collections.abc import Sequence

from fasticcl.config import Config
from fasticcl.data.bad_samples import BadSamples
from fasticcl.engine.dataset import Dataset
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.engine.stages.training_features import TrainingFeatures
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


def read_out_jointly(
    configs: Sequence[Config],
    network: Network,
    dataset: Dataset,
    machine: Machine,
    bad_samples: BadSamples,
) -> list[ReadoutStage]:
    """Return one stage per configuration, with its classifier. All share the encoder.

    Args:
        configs: configurations with readouts and the same data settings.
        network: the network at the end of the representation stage, which is not modified.
        dataset: the opened splits. The holdout is left out of the training images.
        machine: the machine that computes features.
        bad_samples: the known unreadable images, to which newly found ones are added.
    """
    encoder = network.encoder
    features = TrainingFeatures(configs[0], dataset, machine, encoder, bad_samples)
    stages = [
        ReadoutStage(
            config,
            copy.deepcopy(network, {id(encoder): encoder}),
            machine,
            dataset.train.counts,
            features,
        )
        for config in configs
    ]
    for stage in stages:
        stage.begin_epoch(0)
    return stages
