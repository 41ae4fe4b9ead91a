"""The rebalancing stage: class-aware images and a teacher from the representation stage (section 3.6)."""

import copy
from contextlib import AbstractContextManager, nullcontext

import torch

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.optim import build_optimizer, cosine_factor, load_momenta, set_lr
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method import losses
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


class Rebalancing:
    """Stage that fine-tunes the classifier and, with ``rebalance.encoder=tuned``, the encoder (equation 9).

    A frozen encoder stays in evaluation mode. Teacher and student then share one forward pass of the encoder
    without gradient. If the encoder is tuned, the teacher is a full copy of the initial network.

    Args:
        config: configuration of the run.
        network: the trained network of the representation stage. Its projection head is discarded.
        machine: device and ranks.
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
            initial = copy.deepcopy(network.classifier).cpu()  # so that a GPU draws the same numbers
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(config.engine.seed)
                initial.reset_parameters()
            network.classifier.load_state_dict(initial.state_dict())
        trained = network.classifier if self.frozen else network
        self.student = machine.wrap_for_training(trained)
        self.features = machine.compile_forward(self.teacher.encoder)
        self._losses = machine.compile_losses(
            lambda batch: self.losses_from_features(self.encode(batch), batch)
        )
        self.optimizer = build_optimizer(trained.parameters(), config.optim, self.settings.weight_decay)

    def phase(self, epoch: int) -> Phase:  # noqa: ARG002  the stage has only one phase
        """Return ``rebalance``, whose batches contain only class-aware images."""
        return "rebalance"

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch: ``lr_factor`` · ``optim.lr`` with cosine decay to 0."""
        return self.config.optim.lr * self.settings.lr_factor * cosine_factor(epoch, self.epochs)

    def begin_epoch(self, epoch: int) -> None:
        """Set training mode, but keep a frozen encoder in evaluation mode, and set the learning rate."""
        self.network.train()
        if self.frozen:
            self.network.encoder.eval()
        set_lr(self.optimizer, self.lr(epoch))

    def encode(self, batch: StreamBatch) -> torch.Tensor | None:
        """Begin a step and return the teacher's features [B, d_g], or None if they are not needed.

        If the encoder is frozen, these are also the features of the student.
        """
        self.machine.begin_step()
        if not (self.frozen or self.settings.distillation_weight):
            return None
        with torch.no_grad(), self.machine.autocast():
            return self.features(batch.x)

    def losses(self, batch: Batch | StreamBatch) -> Losses:
        """Begin a training step and return the losses of a class-aware batch."""
        assert isinstance(batch, StreamBatch)
        return self._losses(batch)

    def losses_from_features(self, features: torch.Tensor | None, batch: StreamBatch) -> Losses:
        """Return the losses of a class-aware batch from the features that `encode` returned for it."""
        weight = self.settings.distillation_weight
        with self.machine.autocast():
            with torch.no_grad():
                teacher = self.teacher.classifier(features) if weight else None
            student = self.student(features) if self.frozen else self.student(batch.x).logits
        teacher = student if teacher is None else teacher
        total = losses.rebalance(student, teacher, batch.y, weight, self.settings.distillation_temperature)
        return {"loss": total, "ce": losses.cross_entropy(student.detach(), batch.y)}

    def static_buffers(self) -> AbstractContextManager[None]:
        """Return an empty context, because a step changes all state in place."""
        return nullcontext()

    def state_dict(self) -> StageState:
        """Return the weights of student and teacher and the state of the optimizer."""
        return {
            "network": self.network.state_dict(),
            "teacher": self.teacher.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: StageState) -> None:
        """Restore the state that `state_dict` returned."""
        self.teacher.load_state_dict(state["teacher"])
        self.network.load_state_dict(state["network"])
        load_momenta(self.optimizer, state["optimizer"])
