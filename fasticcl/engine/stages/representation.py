"""The representation stage: uniform branch, interpolative branch, centroids (sections 3.1 to 3.5)."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.data.batch import Batch, PairBatch, StreamBatch, TrainingBatch
from fasticcl.data.plan import Phase
from fasticcl.engine.optim import build_optimizer, load_momenta, representation_lr, set_lr
from fasticcl.engine.stages.stage import Losses, StageName, StageState
from fasticcl.method import losses
from fasticcl.method.batch_norm import SyncBatchNorm2d, replace_batch_norm
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.centroids import CentroidBank
from fasticcl.method.class_losses import ClassificationLoss
from fasticcl.method.manifold_mixup import Mixing, check_blocks, draw_block
from fasticcl.method.network import Network, Output
from fasticcl.system.machine import Machine


class Representation:
    """Stage that trains encoder, projection head and classifier: warm-up, then both branches (equation 8).

    Args:
        config: configuration of the run.
        num_classes: K.
        machine: device and ranks.
        counts: [K] training images per class, for losses that depend on them. None means equal counts.

    Raises:
        UserError: the encoder, the classifier, the loss or a block of the encoder is unknown.
    """

    name: StageName = "representation"

    def __init__(
        self, config: Config, num_classes: int, machine: Machine, counts: NDArray[np.integer] | None = None
    ) -> None:
        self.config, self.method, self.machine = config, config.method, machine
        self.epochs = config.optim.epochs
        # Only centroids need the projection head. Baselines have neither.
        dim = self.method.embedding_dim if self.method.centroid_contrastive else 0
        split = self.method.bn_mode == "split"
        self.network = Network(self.method.encoder, num_classes, dim, split, self.method)
        if self.method.mixup_after:
            check_blocks(self.network.encoder, self.method.mixup_after)
        machine.to_device(self.network)
        class_counts = (
            torch.ones(num_classes) if counts is None else torch.from_numpy(counts.astype(np.float32))
        )
        self.classification = ClassificationLoss(self.method, class_counts.to(machine.device), machine.ranks)
        self.bank = CentroidBank(
            num_classes, dim, self.method.centroid_momentum, self.method.centroid_norm
        ).to(machine.device)
        if config.engine.sync_bn:
            replace_batch_norm(self.network, SyncBatchNorm2d)
        self.forward = self._wrap_for_training()
        self._losses = machine.compile_losses(self._interpolative), machine.compile_losses(self._warmup)
        self.optimizer = build_optimizer(
            self.network.parameters(),
            config.optim,
            exceptions=[{"params": self._initialize_bias(), "weight_decay": 0.0}],
        )

    def _wrap_for_training(self) -> Callable[..., Any]:
        # The classifier gets no gradient if equation 8 contains neither ω_u nor L_ce^it.
        may_be_unused = not (self.method.uniform_weight and self.method.interpolative_cross_entropy)
        return self.machine.wrap_for_training(self.network, may_be_unused)

    def _initialize_bias(self) -> list[torch.nn.Parameter]:
        """Set the classifier's bias to the initial value of its loss, and return it if there is one."""
        classifier, value = self.network.classifier, self.classification.costs.initial_bias
        if value is None or not isinstance(classifier, torch.nn.Linear):
            return []
        torch.nn.init.constant_(classifier.bias, value)
        return [classifier.bias]

    def phase(self, epoch: int) -> Phase:
        """Return the phase of an epoch, as `Config.phase` does."""
        return self.config.phase(epoch)

    def lr(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        return representation_lr(epoch, self.config.optim)

    def begin_epoch(self, epoch: int) -> None:
        """Set the whole network to training mode, and all settings that depend on the epoch."""
        self.network.train()
        set_lr(self.optimizer, self.lr(epoch))
        if isinstance(self.network.classifier, CausalClassifier):
            self.network.classifier.set_momentum(self.lr(epoch))
        self.classification.use_weights(
            epoch >= self.config.optim.epoch_after(self.method.class_weight_start)
        )

    def losses(self, batch: TrainingBatch) -> Losses:
        """Begin a training step, return the losses and update the centroids."""
        self.machine.begin_step()
        interpolative, warmup = self._losses
        if isinstance(batch, StreamBatch):
            return warmup(batch)
        # A compiled function cannot draw the block.
        return interpolative(batch, self._draw_block(batch))

    def _draw_block(self, batch: Batch | PairBatch) -> str:
        if isinstance(batch, Batch) or not self.method.mixup_after:
            return ""
        assert batch.rng is not None
        return draw_block(self.method.mixup_after, batch.rng)

    def _warmup(self, batch: StreamBatch) -> Losses:
        h = self._forward(batch.x)
        parts = {"ce": self.classification(h.logits, batch.y)}
        if h.embedding is not None:
            parts["cc"] = losses.centroid_contrastive(
                h.embedding, self.bank.value, batch.y, self.method.temperature
            )
            self._update_centroids(h.embedding, batch.y)
        return {"loss": torch.stack([*parts.values()]).sum(), **parts}

    def _interpolative(self, batch: Batch | PairBatch, block: str) -> Losses:
        """Return the losses of both branches. Unmixed streams are mixed after a block of the encoder."""
        method, labels = self.method, (batch.y_h, batch.y_t, batch.lam)
        h, f = self._forward_branches(batch, block)
        parts: Losses = {}
        if h is not None and method.uniform_weight:
            parts["ce"] = self.classification(h.logits, batch.y_h)
        if method.interpolative_cross_entropy:
            parts["ce_it"] = self.classification.interpolative(f.logits, *labels)
        if h is not None and h.embedding is not None and f.embedding is not None:
            parts["cc_it"] = losses.interpolative_centroid_contrastive(
                f.embedding, self.bank.value, *labels, method.temperature
            )
            self._update_centroids(h.embedding, batch.y_h)
        weights = {"ce": method.uniform_weight}
        weighted = [weights.get(name, method.interpolative_weight) * part for name, part in parts.items()]
        return {"loss": torch.stack(weighted).sum(), **parts}

    def _update_centroids(self, z: torch.Tensor, y: torch.Tensor) -> None:
        """Update the centroids from the global batch in order, bit-identically on every rank."""
        self.bank.update(self.machine.ranks.all_gather(z), self.machine.ranks.all_gather(y))

    def _forward_branches(self, batch: Batch | PairBatch, block: str) -> tuple[Output | None, Output]:
        """Return the outputs for x_h and x_f, computed according to ``method.bn_mode``.

        If ω_u is 0, only the centroids use x_h. A separate forward pass of x_h then runs without gradient.
        Without centroids, x_h is not used. If states are mixed instead of images, the mixed states take the
        place of x_f, and x_h always has a separate pass.
        """
        needs_gradient = self.method.uniform_weight > 0
        if not needs_gradient and self.network.projection is None:
            return None, self._forward_mixed(batch, block)
        if self.method.bn_mode == "separate" or isinstance(batch, PairBatch):
            with torch.set_grad_enabled(needs_gradient):
                h = self._forward(batch.x_h)
            return h, self._forward_mixed(batch, block)
        self.network.set_num_streams(2)
        both = self._forward(torch.cat([batch.x_h, batch.x_f]))
        self.network.set_num_streams(1)
        return both.half(0), both.half(1)

    def _forward_mixed(self, batch: Batch | PairBatch, block: str) -> Output:
        if isinstance(batch, Batch):
            return self._forward(batch.x_f)
        return self._forward(batch.x_h, Mixing(batch.x_t, batch.lam, block, self.method.bn_mode))

    def _forward(self, images: torch.Tensor, *mixing: Mixing) -> Output:
        # Each pass needs its own autocast context, which caches cast weights. A pass with gradient must not
        # reuse weights that were cast without gradient (torch issue 112583).
        with self.machine.autocast():
            return self.forward(images, *mixing)

    def static_buffers(self) -> AbstractContextManager[None]:
        """Return a context in which a step changes the centroids in place."""
        return self.bank.static_buffers()

    def state_dict(self) -> StageState:
        """Return the weights, the centroids and the state of the optimizer."""
        return {
            "network": self.network.state_dict(),
            "centroids": self.bank.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: StageState) -> None:
        """Restore the state that `state_dict` returned."""
        self.network.load_state_dict(state["network"])
        self.bank.load_state_dict(state["centroids"])
        load_momenta(self.optimizer, state["optimizer"])
