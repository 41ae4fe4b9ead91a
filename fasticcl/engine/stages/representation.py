"""The representation stage: uniform branch, interpolative branch, centroids (sections 3.1 to 3.5)."""

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.optim import build_optimizer, representation_lr
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method import losses
from fasticcl.method.batch_norm import SyncBatchNorm2d, replace_batch_norm
from fasticcl.method.centroids import CentroidBank
from fasticcl.method.class_losses import ClassificationLoss
from fasticcl.method.network import Network, Output
from fasticcl.system.machine import Machine


class Representation:
    """Learns encoder, projection head and classifier; warm-up first, then both branches (equation 8).

    Args:
        config: the configuration of the run.
        num_classes: K.
        machine: where it runs.
        counts: [K] training images per class, for losses that take them into account; None: all alike.
    """

    name: StageName = "representation"

    def __init__(
        self, config: Config, num_classes: int, machine: Machine, counts: NDArray[np.integer] | None = None
    ) -> None:
        self.config, self.method, self.machine = config, config.method, machine
        self.epochs = config.optim.epochs
        # The projection head exists for the centroids alone; baselines go without both.
        dim = self.method.embedding_dim if self.method.centroid_contrastive else 0
        split = self.method.bn_mode == "split"
        self.network = Network(self.method.encoder, num_classes, dim, split_bn=split)
        machine.to_device(self.network)
        sizes = torch.ones(num_classes) if counts is None else torch.from_numpy(counts.astype(np.float32))
        self.classification = ClassificationLoss(self.method.class_loss, sizes.to(machine.device))
        self.bank = CentroidBank(
            num_classes, dim, self.method.centroid_momentum, self.method.centroid_norm
        ).to(machine.device)
        if config.engine.sync_bn:
            replace_batch_norm(self.network, SyncBatchNorm2d)
        # Equation 8 without ω_u and L_ce^it leaves the classifier without a gradient.
        unused = not (self.method.uniform_weight and self.method.interpolative_cross_entropy)
        self.forward = machine.wrap_for_training(self.network, unused)
        self._losses = machine.compile_losses(self._interpolative), machine.compile_losses(self._warmup)
        self.optimizer = build_optimizer(self.network.parameters(), config.optim)

    def phase(self, epoch: int) -> Phase:
        """Return warmup for the first T epochs, then interpolative."""
        return self.config.phase(epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        return representation_lr(epoch, self.config.optim)

    def train_mode(self) -> None:
        """Everything learns."""
        self.network.train()

    def losses(self, batch: Batch | StreamBatch) -> Losses:
        """Return the losses of a batch and then move the centroids towards its class-agnostic embeddings."""
        self.machine.begin_step()
        interpolative, warmup = self._losses
        return interpolative(batch) if isinstance(batch, Batch) else warmup(batch)

    def _warmup(self, batch: StreamBatch) -> Losses:
        h = self._pass(batch.x)
        parts = {"ce": self.classification(h.logits, batch.y)}
        if h.embedding is not None:
            parts["cc"] = losses.centroid_contrastive(
                h.embedding, self.bank.value, batch.y, self.method.temperature
            )
            self._move_centroids(h.embedding, batch.y)
        return {"loss": torch.stack([*parts.values()]).sum(), **parts}

    def _interpolative(self, batch: Batch) -> Losses:
        method, labels = self.method, (batch.y_h, batch.y_t, batch.lam)
        h, f = self._both_branches(batch)
        parts: Losses = {}
        if h is not None and method.uniform_weight:
            parts["ce"] = self.classification(h.logits, batch.y_h)
        if method.interpolative_cross_entropy:
            parts["ce_it"] = self.classification.interpolative(f.logits, *labels)
        if h is not None and h.embedding is not None and f.embedding is not None:
            parts["cc_it"] = losses.interpolative_centroid_contrastive(
                f.embedding, self.bank.value, *labels, method.temperature
            )
            self._move_centroids(h.embedding, batch.y_h)
        weights = {"ce": method.uniform_weight}
        weighted = [weights.get(name, method.interpolative_weight) * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum(), **parts}

    def _move_centroids(self, z: torch.Tensor, y: torch.Tensor) -> None:
        """Update them from the global batch in slot order: on every rank the same, to the bit."""
        self.bank.update(self.machine.ranks.all_gather(z), self.machine.ranks.all_gather(y))

    def _both_branches(self, batch: Batch) -> tuple[Output | None, Output]:
        """Return the outputs for x_h and x_f as ``method.bn_mode`` computes them.

        Where ω_u is 0, x_h serves the centroids only: it passes without gradient, and not at all
        where there are no centroids.
        """
        learns_h = self.method.uniform_weight > 0
        if not learns_h and self.network.projection is None:
            return None, self._pass(batch.x_f)
        if self.method.bn_mode == "separate":
            with torch.set_grad_enabled(learns_h):
                h = self._pass(batch.x_h)
            return h, self._pass(batch.x_f)
        self.network.set_num_streams(2)
        both = self._pass(torch.cat([batch.x_h, batch.x_f]))
        self.network.set_num_streams(1)
        return both.half(0), both.half(1)

    def _pass(self, images: torch.Tensor) -> Output:
        # One context a pass: it keeps the weights that it casts, and those cast where no gradient is wanted
        # would serve the next pass, whose weights then got none (torch issue 112583).
        with self.machine.autocast():
            return self.forward(images)

    def state_dict(self) -> StageState:
        """Return weights, centroids and momentum."""
        return {
            "network": self.network.state_dict(),
            "centroids": self.bank.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: StageState) -> None:
        """Continue from a `state_dict`."""
        self.network.load_state_dict(state["network"])
        self.bank.load_state_dict(state["centroids"])
        self.optimizer.load_state_dict(state["optimizer"])
