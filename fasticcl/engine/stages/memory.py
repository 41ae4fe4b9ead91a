"""The rebalancing stage with a memory of class centroids (OLTR, Liu et al., 2019)."""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fasticcl.config import Config
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.optim import ParameterGroup
from fasticcl.engine.stages.rebalance import Features, Rebalancing
from fasticcl.engine.stages.stage import Losses
from fasticcl.errors import UserError
from fasticcl.method.attention import add_attention, check_attention
from fasticcl.method.memory import MemoryClassifier, centroid_loss
from fasticcl.method.nearest_mean import mean_by_class
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine

_CENTROID_WEIGHT_DECAY = 5e-4


class MemoryRebalancing(Rebalancing):
    """Stage that trains the encoder and a memory classifier with cross-entropy and the centroid loss.

    The official code updates the centroids with an optimizer of their own, SGD with the learning rate of the
    features and weight decay 5e-4. SGD treats each parameter separately, so here they are a group of the
    stage's optimizer. They start as the class means of the training images without augmentation, which are
    computed at the beginning of the first epoch. Until then they are 0, so a run that continues within this
    epoch does not compute them again.

    Args:
        config: configuration of the run.
        network: the trained network of the representation stage. Its projection head is discarded.
        machine: device and ranks.
        counts: [K] training images per class, for label-aware smoothing. None means equal counts.
        features: batches of features and classes of the training images of this rank, from the encoder before
            the stage. They are computed when they are iterated, which happens only in the first epoch.

    Raises:
        UserError: the classifier or the encoder does not fit, see `check_memory`.
    """

    def __init__(
        self,
        config: Config,
        network: Network,
        machine: Machine,
        counts: NDArray[np.integer] | None = None,
        features: Iterable[tuple[torch.Tensor, torch.Tensor]] = (),
    ) -> None:
        check_memory(config, network)
        self._training_features = features
        super().__init__(config, network, machine, counts)

    def _prepare_classifier(self) -> nn.Module:
        """Replace the network's classifier by a memory classifier, add attention, and return the former."""
        first, encoder = self.network.classifier, self.network.encoder
        num_classes, feature_dim = first.weight.shape
        with torch.random.fork_rng(devices=[]):  # on the CPU, so that a GPU draws the same numbers
            torch.manual_seed(self.config.engine.seed)
            classifier = MemoryClassifier(feature_dim, num_classes)
            if self.settings.attention:
                self.network.encoder = add_attention(encoder, self.config.data.image_size)
        classifier.hallucinator.load_state_dict(first.state_dict())
        self.network.classifier = classifier
        self.machine.to_device(self.network)
        return classifier

    @property
    def _classifier(self) -> MemoryClassifier:
        assert isinstance(self.network.classifier, MemoryClassifier)
        return self.network.classifier

    def _trained_module(self) -> nn.Module:
        return _FeaturesAndLogits(self.network)

    def _parameter_groups(self, classifier: nn.Module) -> list[ParameterGroup]:
        centroids = self._classifier.centroids
        others = [value for value in classifier.parameters() if value is not centroids]
        return [
            {"params": others, "lr_factor": self.settings.classifier_lr_factor},
            {"params": [centroids], "weight_decay": _CENTROID_WEIGHT_DECAY},
        ]

    def begin_epoch(self, epoch: int) -> None:
        """Set training mode and the learning rate. In the first epoch, compute the initial centroids."""
        if epoch == 0 and not self._classifier.centroids.any():
            self._compute_centroids()
        super().begin_epoch(epoch)

    @torch.no_grad()
    def _compute_centroids(self) -> None:
        self.network.eval()
        centroids = self._classifier.centroids
        num_classes, feature_dim = centroids.shape
        centroids.copy_(mean_by_class(self._training_features, feature_dim, num_classes, self._all_reduce))
        self._training_features = ()  # frees their memory

    def _all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        return self.machine.ranks.all_reduce(tensor.to(self.machine.device)).cpu()

    def losses_from_features(self, features: Features, batch: StreamBatch) -> Losses:
        """Return the losses of a class-aware batch: those of `Rebalancing` and the centroid loss.

        ``centroid`` is the centroid loss multiplied by its weight.
        """
        with self.machine.autocast():
            v, logits = self.student(batch.x)
        parts = self._losses_of_logits(logits, features, batch)
        weight, ranks = self.settings.centroid_loss_weight, self.machine.ranks
        centroid = centroid_loss(v, self._classifier.centroids, batch.y, weight, ranks)
        return {**parts, "loss": parts["loss"] + centroid, "centroid": centroid}


class _FeaturesAndLogits(nn.Module):
    """A network that returns its features and its logits."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.network.encoder(images)
        return features, self.network.classifier(features)


def check_memory(config: Config, network: Network) -> None:
    """Check that a memory classifier can follow a network of the representation stage.

    Raises:
        UserError: its classifier is not linear, or its encoder does not support attention.
    """
    if not isinstance(network.classifier, nn.Linear):
        raise UserError(
            "rebalance.classifier=memory requires a linear classifier in the first stage, from which it "
            "starts. Train a run with method.classifier=linear, or choose another --method."
        )
    if config.rebalance.attention:
        check_attention(network.encoder)
