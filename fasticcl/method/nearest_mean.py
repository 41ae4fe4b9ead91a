"""Nearest class mean with centred, L2-normalised features ("cl2n" of Kang et al., 2020)."""

from collections.abc import Callable, Iterable

import torch
from torch import nn
from torch.nn import functional as F


class NearestMeanClassifier(nn.Module):
    """Classifier with the logits f̂·c_k - ½‖c_k‖², where f̂ is the centred and L2-normalised feature.

    The logits rank the classes like the negative L2 distances between f̂ and the class means c_k. They are
    computed in float32.

    Args:
        feature_dim: d_g.
        num_classes: K.
    """

    mean: torch.Tensor

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.register_buffer("mean", torch.empty(feature_dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set the class means and the mean of all features to 0."""
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.mean)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of features [B, d_g]."""
        # bfloat16 would round the logits of similar classes to equal values.
        with torch.autocast(features.device.type, enabled=False):
            centred = F.normalize(features.float() - self.mean, dim=1)
            return F.linear(centred, self.weight, -0.5 * self.weight.square().sum(dim=1))


def nearest_mean(
    features: Iterable[tuple[torch.Tensor, torch.Tensor]],
    feature_dim: int,
    num_classes: int,
    all_reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total,
) -> NearestMeanClassifier:
    """Return the classifier of the class means of training features.

    The class means are averages of unit vectors and are not normalised again. Sums are computed in float64
    and on the CPU, where `index_add_` adds in a fixed order. The mean of a class without images is 0.

    Args:
        features: batches of features [B, d_g] and classes [B] of this rank, on the CPU. They are iterated
            twice: for the mean of all features, and for the class means.
        feature_dim: d_g.
        num_classes: K.
        all_reduce: returns the sum of a float64 tensor over all ranks.
    """
    sums = torch.zeros(feature_dim + 1, dtype=torch.float64)  # the last number counts the images
    for batch, _ in features:
        sums[:-1] += batch.double().sum(dim=0)
        sums[-1] += len(batch)
    sums = all_reduce(sums)
    mean = sums[:-1] / sums[-1].clamp(min=1)
    centred = ((F.normalize(batch.double() - mean, dim=1), classes) for batch, classes in features)
    class_means = mean_by_class(centred, feature_dim, num_classes, all_reduce)
    classifier = NearestMeanClassifier(feature_dim, num_classes)
    with torch.no_grad():
        classifier.mean.copy_(mean)
        classifier.weight.copy_(class_means)
    return classifier


def mean_by_class(
    features: Iterable[tuple[torch.Tensor, torch.Tensor]],
    feature_dim: int,
    num_classes: int,
    all_reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total,
) -> torch.Tensor:
    """Return the float64 mean [K, d_g] of the features of each class, which is 0 for a class without images.

    Args:
        features, feature_dim, num_classes, all_reduce: as in `nearest_mean`. The features are iterated once.
    """
    sums = torch.zeros(num_classes, feature_dim + 1, dtype=torch.float64)
    for batch, classes in features:
        counted = torch.cat([batch.double(), torch.ones(len(batch), 1, dtype=torch.float64)], dim=1)
        sums.index_add_(0, classes, counted)
    sums = all_reduce(sums)
    return sums[:, :-1] / sums[:, -1:].clamp(min=1)
