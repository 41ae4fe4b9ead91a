"""What the loop needs to know of a stage."""

from typing import Any, Literal, NotRequired, Protocol, TypedDict

import torch

from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.plan import Phase
from fasticcl.method.network import Network

StageName = Literal["representation", "rebalancing"]
STAGES: tuple[StageName, ...] = ("representation", "rebalancing")

Losses = dict[str, torch.Tensor]
"""Named scalar losses; ``loss`` is the one that is minimised."""


class StageState(TypedDict):
    """The part of a checkpoint that belongs to a stage: state dicts by name."""

    network: dict[str, Any]
    optimizer: dict[str, Any]
    centroids: NotRequired[dict[str, Any]]
    """Of the representation stage."""
    teacher: NotRequired[dict[str, Any]]
    """Of the rebalancing stage: encoder and classifier before it began."""


class Stage(Protocol):
    """Forward pass and loss of a stage, its optimizer and what a checkpoint keeps of it."""

    name: StageName
    epochs: int
    network: Network
    optimizer: torch.optim.Optimizer

    def phase(self, epoch: int) -> Phase:
        """Return which batches an epoch takes."""
        ...

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        ...

    def train_mode(self) -> None:
        """Put the modules that learn into training mode, the others into evaluation mode."""
        ...

    def losses(self, batch: Batch | StreamBatch) -> Losses:
        """Return the losses of a batch; a training step begins with this."""
        ...

    def state_dict(self) -> StageState:
        """Return tensors and plain values from which `load_state_dict` continues."""
        ...

    def load_state_dict(self, state: StageState) -> None:
        """Continue from a `state_dict`."""
        ...


def learn(stage: Stage, batch: Batch | StreamBatch) -> Losses:
    """Take a training step and return its losses; nothing here waits for the device."""
    # Before the forward pass: where CUDA graphs replay it, it overwrites the gradients of the last step.
    stage.optimizer.zero_grad(set_to_none=True)
    losses = stage.losses(batch)
    losses["loss"].backward()
    stage.optimizer.step()
    return losses
