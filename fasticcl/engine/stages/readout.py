"""The second stage of a readout: one epoch without training steps."""

import copy
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.engine.stages.stage import StageName, StagePhase, StageState
from fasticcl.method.network import Network, classifier_of
from fasticcl.method.readouts import ReadoutInputs, find_readout
from fasticcl.system.machine import Machine


class ReadoutStage:
    """Stage that replaces the classifier of the representation stage with one computed from it.

    The classifier is computed at the beginning of the only epoch, so a run that is stopped at any time
    continues with the same result. The encoder does not change.

    Args:
        config: configuration of the run. ``rebalance.readout`` names the readout.
        network: the trained network of the representation stage. Its projection head is discarded.
        machine: device and ranks.
        counts: [K] training images per class.
        features: batches of features and classes of the training images of this rank. They are computed when
            they are iterated, which happens only in the epoch.

    Raises:
        UserError: the readout is unknown or does not support the classifier.
    """

    name: StageName = "rebalancing"
    epochs = 1

    def __init__(
        self,
        config: Config,
        network: Network,
        machine: Machine,
        counts: NDArray[np.integer],
        features: Iterable[tuple[torch.Tensor, torch.Tensor]],
    ) -> None:
        self.settings, self.machine, self.counts, self.features = config.rebalance, machine, counts, features
        self.readout = find_readout(self.settings.readout, network.classifier)
        network.projection = None
        self.network = network
        self.teacher = copy.deepcopy(network, {id(network.encoder): network.encoder})

    def phase(self, epoch: int) -> StagePhase:  # noqa: ARG002  the stage has only one phase
        """Return ``readout``."""
        return "readout"

    def lr(self, epoch: int) -> float:  # noqa: ARG002
        """Return 0, because nothing is trained."""
        return 0.0

    def begin_epoch(self, epoch: int) -> None:  # noqa: ARG002
        """Set evaluation mode and compute the classifier."""
        self.network.eval()
        inputs = ReadoutInputs(
            classifier=copy.deepcopy(self.teacher.classifier).cpu(),
            counts=torch.from_numpy(self.counts.astype(np.int64)),
            tau=self.settings.tau,
            alpha=self.settings.alpha,
            features=self.features,
            all_reduce=self._all_reduce,
        )
        self.network.classifier = self.readout.compute(inputs).to(self.machine.device).eval()

    def _all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.machine.ranks.all_reduce(tensor.to(self.machine.device)).cpu()

    def state_dict(self) -> StageState:
        """Return the weights of the network and of the network before the readout."""
        return {"network": self.network.state_dict(), "teacher": self.teacher.state_dict()}

    def load_state_dict(self, state: StageState) -> None:
        """Restore the state that `state_dict` returned."""
        self.teacher.load_state_dict(state["teacher"])
        self.network.classifier = classifier_of(state["network"]).to(self.machine.device).eval()
