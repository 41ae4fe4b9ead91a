"""The rebalancing stage: class-aware images, a teacher from the first stage (section 3.6)."""

import copy

import torch

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.optim import build_optimizer, cosine
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method import losses
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


class Rebalancing:
    """Fine-tunes the classifier, and the encoder too where it is ``tuned`` (equation 9).

    A frozen encoder stays in evaluation mode, so teacher and student share its one forward pass,
    without gradient; a tuned encoder leaves the teacher a full copy of the first stage's network.

    Args:
        config: the configuration of the run.
        network: the network that the representation stage ended with; its projection head is discarded.
        machine: where it runs.
    """

    name: StageName = "rebalancing"

    def __init__(self, config: Config, network: Network, machine: Machine) -> None:
        self.config, self.settings, self.machine = config, config.rebalance, machine
        self.epochs = self.settings.epochs
        self.frozen = self.settings.encoder == "frozen"
        network.projection = None
        self.network = network
        self.teacher = copy.deepcopy(network).eval().requires_grad_(False)
        if self.frozen:
            self.network.encoder.requires_grad_(False)
            self.teacher.encoder = self.network.encoder
        if self.settings.classifier == "reinit":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.engine.seed)
                fresh = torch.nn.Linear(network.classifier.in_features, network.classifier.out_features)
            network.classifier.load_state_dict(fresh.state_dict())
        learning = network.classifier if self.frozen else network
        self.student = machine.wrap_for_training(learning)
        self.features = machine.compile_forward(self.teacher.encoder)
        self._losses = machine.compile_losses(
            lambda batch: self.losses_from_features(self.encode(batch), batch)
        )
        self.optimizer = build_optimizer(learning.parameters(), config.optim, self.settings.weight_decay)

    def phase(self, epoch: int) -> Phase:  # noqa: ARG002  the stage has one phase
        """Return rebalance: class-aware images alone."""
        return "rebalance"

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch: a share of the first stage's, on a cosine to 0."""
        return self.config.optim.lr * self.settings.lr_factor * cosine(epoch, self.epochs)

    def train_mode(self) -> None:
        """The classifier learns; a frozen encoder keeps its batch statistics."""
        self.network.train()
        if self.frozen:
            self.network.encoder.eval()

    def encode(self, batch: StreamBatch) -> torch.Tensor | None:
        """Begin a step: return the features [B, D] of the teacher's encoder, None where nobody asks for them.

        It is the student's encoder too where that is frozen.
        """
        self.machine.begin_step()
        if not (self.frozen or self.settings.distillation_weight):
            return None
        with torch.no_grad(), self.machine.autocast():
            return self.features(batch.x)

    def losses(self, batch: Batch | StreamBatch) -> Losses:
        """Return the loss of a class-aware batch."""
        assert isinstance(batch, StreamBatch)
        return self._losses(batch)

    def losses_from_features(self, features: torch.Tensor | None, batch: StreamBatch) -> Losses:
        """Return the loss of a class-aware batch, given what `encode` made of it."""
        weight = self.settings.distillation_weight
        with self.machine.autocast():
            with torch.no_grad():
                teacher = self.teacher.classifier(features) if weight else None
            student = self.student(features) if self.frozen else self.student(batch.x).logits
        teacher = student if teacher is None else teacher
        total = losses.rebalance(student, teacher, batch.y, weight, self.settings.distillation_temperature)
        return {"loss": total, "ce": losses.cross_entropy(student.detach(), batch.y)}

    def state_dict(self) -> StageState:
        """Return weights of student and teacher, and momentum."""
        return {
            "network": self.network.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: StageState) -> None:
        """Continue from a `state_dict`."""
        self.teacher.load_state_dict(state["teacher"])
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
