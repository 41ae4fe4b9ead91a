"""Class weights of the classification loss, from the effective number of samples (Cui et al., 2019)."""

import torch

from fasticcl.config import Method
from fasticcl.method.losses import Lambda
from fasticcl.system.ranks import Ranks


def effective_number_weights(counts: torch.Tensor, beta: float) -> torch.Tensor:
    """Return the weights 1 / E_k, scaled to the sum K, where E_k = (1 - β^n_k) / (1 - β).

    Args:
        counts: [K] training images per class.
        beta: β in [0, 1). 0 gives equal weights, and β → 1 weights proportional to 1 / n_k.
    """
    inverse = (1 - beta) / (1 - beta ** counts.double())
    return (inverse * len(counts) / inverse.sum()).float()


class ClassWeights:
    """Weighted means of costs. All weights are 1 until `enable` is called.

    Args:
        counts: [K] training images per class.
        settings: the section ``method``.
        ranks: the processes that train together.
    """

    def __init__(self, counts: torch.Tensor, settings: Method, ranks: Ranks) -> None:
        self.ranks, self.divide_by_weights = ranks, settings.class_weight_norm == "weights"
        self.value = torch.ones_like(counts, dtype=torch.float32)
        """[K] the weights in use."""
        self._enabled = effective_number_weights(counts, settings.class_weight_beta)

    def enable(self, enabled: bool = True) -> None:
        """Use the weights of the effective number of samples, or weights of 1.

        The tensor is changed in place, because a captured CUDA graph reads it at its address.
        """
        self.value.copy_(self._enabled) if enabled else self.value.fill_(1)

    def mean(self, costs: torch.Tensor, *labels: tuple[Lambda, torch.Tensor]) -> torch.Tensor:
        """Return the weighted mean over the labels, divided according to ``method.class_weight_norm``.

        Args:
            costs: [B, K] loss of each sample for each class as its label.
            labels: the labels of the samples, each as its share (1, or λ and 1 - λ) and the classes [B].
        """
        samples, sizes = torch.zeros_like(costs[:, 0]), torch.zeros_like(costs[:, 0])
        for share, y in labels:
            weights = share * self.value[y]
            samples = samples + weights * costs.gather(1, y[:, None]).squeeze(1)
            sizes = sizes + weights
        if not self.divide_by_weights:
            return samples.mean()
        # Ranks average their gradients, so each divides by the mean over the ranks of the sums of weights.
        return samples.sum() / (self.ranks.all_reduce(sizes.sum()) / self.ranks.world_size)
