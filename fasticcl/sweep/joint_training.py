"""Several settings of the rebalancing stage, trained in one pass over the images."""

import copy
import time
from collections.abc import Sequence
from typing import cast

from fasticcl.config import Config
from fasticcl.data.loader import Loader, StreamBatch
from fasticcl.engine.optim import set_lr
from fasticcl.engine.progress import Display
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


def together(config: Config) -> tuple[object, ...]:
    """Return what settings must have in common to be trained side by side.

    The plan draws the same images, windows and colours at every step whatever is learnt from them; γ'
    alone changes which. A frozen encoder therefore makes the same features of them for every setting.
    A tuned one does not: each of its settings is on its own.
    """
    settings = config.rebalance
    if settings.encoder == "frozen":
        return settings.gamma, settings.epochs
    return (settings,)


def build_stages(configs: Sequence[Config], first: Network, machine: Machine) -> list[Rebalancing]:
    """Return a stage for each configuration; frozen, they share the one encoder.

    Args:
        configs: configurations that are alike in `together`.
        first: the network that the representation stage ended with; it is left as it is.
        machine: where they run.
    """
    shared = {id(first.encoder): first.encoder} if configs[0].rebalance.encoder == "frozen" else {}
    return [Rebalancing(config, copy.deepcopy(first, {**shared}), machine) for config in configs]


def train_together(stages: Sequence[Rebalancing], loader: Loader, display: Display, title: str) -> None:
    """Train the stages to their end: every image is decoded and encoded once, for all of them.

    What each learns is to the bit what it learns alone (on a CPU).

    Args:
        stages: as `build_stages` makes them.
        loader: their class-aware batches.
        display: what a person sees.
        title: what the stages are called there.
    """
    batches = loader.batches("rebalance")
    epochs = stages[0].epochs
    for epoch in range(epochs):
        for stage in stages:
            stage.train_mode()
            set_lr(stage.optimizer, stage.lr(epoch))
        began, images = time.perf_counter(), 0
        for _ in range(loader.steps):
            batch = cast(StreamBatch, next(batches))
            _step(stages, batch)
            images += batch.images
            display.step()
        speed = images / (time.perf_counter() - began)
        place = f"epoch {epoch + 1:>{len(str(epochs))}}/{epochs}"
        display.print(f"rebalance     {place}  {title}  {speed:.0f} images/s  ETA {display.eta()}")


def _step(stages: Sequence[Rebalancing], batch: StreamBatch) -> None:
    features = stages[0].encode(batch)
    for stage in stages:
        stage.optimizer.zero_grad(set_to_none=True)
        loss = stage.losses_from_features(features, batch)["loss"]
        loss.backward()
        stage.optimizer.step()
