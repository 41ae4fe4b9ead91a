"""The first stage of BBN: two tails, whose weights in logits and loss change from epoch to epoch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import Batch, PairBatch
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import Losses
from fasticcl.method.bilateral import BilateralNetwork, bilateral_loss, conventional_weight
from fasticcl.system.machine import Machine


class Bilateral(Representation):
    """Stage that trains an encoder with two tails on pairs of unmixed images (BBN).

    Args:
        config: configuration of the run.
        num_classes: K.
        machine: device and ranks.
        counts: [K] training images per class, for losses that depend on them. None means equal counts.
    """

    def __init__(
        self, config: Config, num_classes: int, machine: Machine, counts: NDArray[np.integer] | None = None
    ) -> None:
        super().__init__(config, num_classes, machine, counts)
        # A tensor that changes in place, so that no epoch compiles or captures the step again.
        self.alpha = torch.ones((), device=machine.device)

    def _wrap_for_training(self) -> Callable[..., Any]:
        return self.machine.wrap_for_training(BilateralNetwork(self.network))

    def begin_epoch(self, epoch: int) -> None:
        """Begin the epoch as `Representation` does, and set the weight of the conventional tail."""
        super().begin_epoch(epoch)
        self.alpha.fill_(conventional_weight(epoch + 1, self.epochs))

    def _interpolative(self, batch: Batch | PairBatch, block: str) -> Losses:  # noqa: ARG002
        assert isinstance(batch, PairBatch)
        with self.machine.autocast():
            logits = self.forward(batch.x_h, batch.x_t, self.alpha)
        ce_h, ce_t = self.classification(logits, batch.y_h), self.classification(logits, batch.y_t)
        return {"loss": bilateral_loss(ce_h, ce_t, self.alpha), "ce_h": ce_h, "ce_t": ce_t}
