"""Joint training of several rebalancing stages in one pass over the images."""

import copy
import time
from collections.abc import Iterable, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.data.loader import Loader
from fasticcl.engine.progress import Display
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.second_stage import build_rebalancing
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


def joint_key(config: Config) -> tuple[object, ...]:
    """Return the settings in which configurations must agree to be trained jointly.

    The plan draws the same images, crops and colours for all configurations with the same γ'. A frozen
    encoder then computes the same features for all of them, also if its batch normalisation is in training
    mode. The teacher then has features of its own, which only some configurations need. A tuned encoder does
    not compute the same features, so its configurations are trained one by one. Readouts are not trained, and
    all share one pass.
    """
    settings = config.rebalance
    if settings.readout != "none":
        return ("readout",)
    if settings.encoder == "frozen":
        teacher = settings.batch_norm == "train" and settings.distillation_weight > 0
        return settings.gamma, settings.epochs, settings.batch_norm, teacher
    return (settings,)


def build_stages(
    configs: Sequence[Config],
    network: Network,
    machine: Machine,
    counts: NDArray[np.integer],
    features: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
) -> list[Rebalancing]:
    """Return one stage per configuration. Stages with a frozen encoder share a copy of it.

    Args:
        configs: configurations with the same `joint_key`.
        network: the network at the end of the representation stage, which is not modified.
        machine: the machine that trains.
        counts: [K] training images per class.
        features: features of the training images for a memory.
    """
    frozen = configs[0].rebalance.encoder == "frozen"
    shared = {id(network.encoder): copy.deepcopy(network.encoder)} if frozen else {}
    return [
        build_rebalancing(config, copy.deepcopy(network, {**shared}), machine, counts, features)
        for config in configs
    ]


def train_jointly(stages: Sequence[Rebalancing], loader: Loader, display: Display, title: str) -> None:
    """Train the stages for all their epochs. Each image is decoded and encoded once for all stages.

    On a CPU, the weights are bit-identical to those of separate training.

    Args:
        stages: the stages from `build_stages`.
        loader: the loader of their class-aware batches.
        display: the progress display.
        title: the name of the stages in the display.
    """
    batches = loader.batches("rebalance")
    epochs = stages[0].epochs
    for epoch in range(epochs):
        for stage in stages:
            stage.begin_epoch(epoch)
        started, images = time.perf_counter(), 0
        for _ in range(loader.steps):
            batch = cast(StreamBatch, next(batches))
            _take_step(stages, batch)
            images += batch.images
            display.step()
        speed = images / (time.perf_counter() - started)
        position = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
        display.print(f"rebalance     {position}  {title}  {speed:.0f} images/s  ETA {display.eta()}")


def _take_step(stages: Sequence[Rebalancing], batch: StreamBatch) -> None:
    features = stages[0].encode(batch)
    for stage in stages:
        stage.optimizer.zero_grad(set_to_none=True)
        loss = stage.losses_from_features(features, batch)["loss"]
        loss.backward()
        stage.optimizer.step()
