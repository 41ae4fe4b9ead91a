"""The rebalancing stage: class-aware images and a teacher from the representation stage (section 3.6)."""

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch, TrainingBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.optim import ParameterGroup, build_optimizer, cosine_factor, load_momenta, set_lr
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method import losses
from fasticcl.method.batch_norm import train_batch_norm
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine
from fasticcl.method.label_smoothing import smoothing_factors
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine


class Features(NamedTuple):
    """Features [B, d_g] of a batch, computed without gradient."""

    teacher: torch.Tensor | None
    """Features for the teacher's classifier. None if the teacher is not needed."""
    student: torch.Tensor | None
    """Features for the student's classifier. None if the encoder is tuned."""


class Rebalancing:
    """Stage that fine-tunes the classifier and, with ``rebalance.encoder=tuned``, the encoder (equation 9).

    If the encoder is frozen and stays in evaluation mode, teacher and student share one forward pass of the
    encoder without gradient. Otherwise, the teacher is a full copy of the initial network.

    Args:
        config: configuration of the run.
        network: the trained network of the representation stage. Its projection head is discarded.
        machine: device and ranks.
        counts: [K] training images per class, for label-aware smoothing. None means equal counts.
    """

    name: StageName = "rebalancing"

    def __init__(
        self,
        config: Config,
        network: Network,
        machine: Machine,
        counts: NDArray[np.integer] | None = None,
    ) -> None:
        self.config, self.settings, self.machine = config, config.rebalance, machine
        self.epochs = self.settings.epochs
        self.frozen = self.settings.encoder == "frozen"
        self.shared = self.frozen and self.settings.batch_norm == "eval"
        network.projection = None
        self.network = network
        self.teacher = copy.deepcopy(network).eval().requires_grad_(False)
        if self.frozen:
            network.encoder.requires_grad_(False)
        if self.shared:
            self.teacher.encoder = network.encoder
        classifier = self._prepare_classifier()
        self.smoothing = self._smoothing(counts)
        trained = self._trained_module()
        self.student = machine.wrap_for_training(trained)
        self.features = machine.compile_forward(self.teacher.encoder)
        self.student_features = self.features if self.shared else machine.compile_forward(network.encoder)
        self._losses = machine.compile_losses(
            lambda batch: self.losses_from_features(self.encode(batch), batch)
        )
        self.optimizer = build_optimizer(
            (value for value in trained.parameters() if value.requires_grad),
            config.optim,
            self.settings.weight_decay,
            self._parameter_groups(classifier),
        )

    def _prepare_classifier(self) -> nn.Module:
        """Turn the network's classifier into that of the student, and return it without its class scale."""
        classifier = self.network.classifier
        if self.settings.classifier == "reinit":
            initial = copy.deepcopy(classifier).cpu()  # so that a GPU draws the same numbers
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.config.engine.seed)
                initial.reset_parameters()
            classifier.load_state_dict(initial.state_dict())
        elif self.settings.classifier == "frozen":
            classifier.requires_grad_(False)
        if self.settings.class_scale:
            affine = ClassAffine(classifier, len(classifier.weight))
            self.network.classifier = affine.to(classifier.weight.device)
        return classifier

    def _trained_module(self) -> nn.Module:
        """Return the module whose output for images, or for features of a frozen encoder, is trained."""
        return self.network.classifier if self.frozen else self.network

    def _parameter_groups(self, classifier: nn.Module) -> list[ParameterGroup]:
        """Return the groups of parameters with settings of their own."""
        factor = self.settings.classifier_lr_factor
        return [{"params": [] if factor == 1 else [*classifier.parameters()], "lr_factor": factor}]

    def _smoothing(self, counts: NDArray[np.integer] | None) -> torch.Tensor | None:
        """Return the factors of label-aware smoothing [K], or None without it."""
        if not self.settings.smoothed:
            return None
        num_classes = len(self.network.classifier.weight)
        class_counts = torch.ones(num_classes) if counts is None else torch.from_numpy(counts)
        head, tail = self.settings.smoothing_head, self.settings.smoothing_tail
        return smoothing_factors(class_counts, head, tail).to(self.machine.device)

    def phase(self, epoch: int) -> Phase:  # noqa: ARG002  the stage has only one phase
        """Return ``rebalance``, whose batches contain only class-aware images."""
        return "rebalance"

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch: ``lr_factor`` · ``optim.lr`` with cosine decay to 0."""
        return self.config.optim.lr * self.settings.lr_factor * cosine_factor(epoch, self.epochs)

    def begin_epoch(self, epoch: int) -> None:
        """Set the modes of the modules and the learning rate.

        A frozen encoder is in evaluation mode, except for its batch normalisation with
        ``rebalance.batch_norm=train``.
        """
        self.network.train()
        for module in self.network.modules():
            if isinstance(module, CausalClassifier):  # a second stage does not change its mean, and α is 0
                module.eval()
        if self.shared:
            self.network.encoder.eval()
        elif self.frozen:
            train_batch_norm(self.network.encoder)
        set_lr(self.optimizer, self.lr(epoch))

    def encode(self, batch: StreamBatch) -> Features:
        """Begin a step and return the features that are computed without gradient."""
        self.machine.begin_step()
        with torch.no_grad(), self.machine.autocast():
            if self.shared:
                features = self.features(batch.x)
                return Features(features, features)
            teacher = self.features(batch.x) if self.settings.distillation_weight else None
            student = self.student_features(batch.x) if self.frozen else None
        return Features(teacher, student)

    def losses(self, batch: TrainingBatch) -> Losses:
        """Begin a training step and return the losses of a class-aware batch."""
        assert isinstance(batch, StreamBatch)
        return self._losses(batch)

    def losses_from_features(self, features: Features, batch: StreamBatch) -> Losses:
        """Return the losses of a class-aware batch from the features that `encode` returned for it.

        ``ce`` is the plain cross-entropy, also with label-aware smoothing.
        """
        with self.machine.autocast():
            student = self.student(features.student) if self.frozen else self.student(batch.x).logits
        return self._losses_of_logits(student, features, batch)

    def _losses_of_logits(self, student: torch.Tensor, features: Features, batch: StreamBatch) -> Losses:
        weight, temperature = self.settings.distillation_weight, self.settings.distillation_temperature
        with torch.no_grad(), self.machine.autocast():
            teacher = self.teacher.classifier(features.teacher) if weight else student
        total = losses.rebalance(student, teacher, batch.y, weight, temperature, self.smoothing)
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
