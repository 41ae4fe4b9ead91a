"""The interface between a stage and the epoch loop, and the training step."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Literal, NotRequired, Protocol, TypedDict, runtime_checkable

import torch

from fasticcl.data.batch import TrainingBatch
from fasticcl.data.plan import Phase
from fasticcl.method.network import Network

StageName = Literal["seed", "representation", "rebalancing"]
STAGES: tuple[StageName, ...] = ("seed", "representation", "rebalancing")
StagePhase = Phase | Literal["readout"]
"""The phase of an epoch. ``readout``: an epoch without training steps."""

Losses = dict[str, torch.Tensor]
"""Scalar losses by name. ``loss`` is the minimised total."""


Learn = Callable[["TrainingStage", Any], Losses]
"""Takes a training step on a batch and returns its losses, as `learn` does."""


class StageState(TypedDict):
    """The part of a checkpoint that belongs to a stage: state dicts by name."""

    network: dict[str, Any]
    optimizer: NotRequired[dict[str, Any]]
    """Optimizer of a stage that trains."""
    centroids: NotRequired[dict[str, Any]]
    """Centroid bank of the representation stage."""
    teacher: NotRequired[dict[str, Any]]
    """Teacher of the rebalancing stage: encoder and classifier at the end of the representation stage."""
    seed: NotRequired[dict[str, Any]]
    """Frozen network that guides the translation of M2m."""


class Stage(Protocol):
    """A stage of a run: network, schedule and state for checkpoints."""

    name: StageName
    epochs: int
    network: Network

    def phase(self, epoch: int) -> StagePhase:
        """Return the phase of an epoch."""
        ...

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        ...

    def begin_epoch(self, epoch: int) -> None:
        """Set the modes of the modules, the learning rate and everything else that an epoch changes."""
        ...

    def state_dict(self) -> StageState:
        """Return the state from which `load_state_dict` continues."""
        ...

    def load_state_dict(self, state: StageState) -> None:
        """Restore the state that `state_dict` returned."""
        ...


@runtime_checkable
class TrainingStage(Stage, Protocol):
    """A stage that takes training steps: losses and optimizer."""

    optimizer: torch.optim.Optimizer

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch, which determines its batches."""
        ...

    def losses(self, batch: TrainingBatch) -> Losses:
        """Begin a training step and return the losses of a batch."""
        ...

    def static_buffers(self) -> AbstractContextManager[None]:
        """Return a context in which a step changes all state in place, as CUDA graphs require."""
        ...


def learn(stage: TrainingStage, batch: TrainingBatch) -> Losses:
    """Take a training step and return its losses, without waiting for the device."""
    # Gradients are cleared before the forward pass, because CUDA graphs overwrite those of the last step.
    stage.optimizer.zero_grad(set_to_none=True)
    losses = stage.losses(batch)
    losses["loss"].backward()
    stage.optimizer.step()
    return losses
