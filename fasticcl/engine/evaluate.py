"""Accuracy: overall and on the many, medium and few splits (section 4.2)."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.data.loader import StreamBatch
from fasticcl.data.longtail import splits
from fasticcl.engine.machine import Machine
from fasticcl.method.network import Network

Metrics = dict[str, float | None]
"""Percentages by name; None for a split that has no class."""
METRICS = ("val/top1", "val/many", "val/medium", "val/few")


@torch.no_grad()
def evaluate(
    network: Network, batches: Iterable[StreamBatch], train_counts: NDArray[np.integer], machine: Machine
) -> Metrics:
    """Return top-1 accuracy in percent over the given images, and per split.

    Overall is the share of images that are right; a split is the mean of its classes' accuracies.

    Args:
        network: the network; it is left in evaluation mode.
        batches: this rank's images; over all ranks each comes once.
        train_counts: [K] training images per class, which define the splits.
        machine: where it runs.
    """
    ranks = machine.ranks
    right = torch.zeros(len(train_counts), dtype=torch.int64, device=machine.device)
    seen = torch.zeros_like(right)
    for y, predicted in predictions(network, batches):
        right.index_add_(0, y, (predicted == y).long())
        seen.index_add_(0, y, torch.ones_like(y))
    totals = ranks.sum(torch.stack([right, seen])).cpu().numpy()
    return accuracies(totals[0], totals[1], train_counts)


@torch.no_grad()
def predictions(
    network: Network, batches: Iterable[StreamBatch]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the labels [B] and the predicted classes [B] of each batch; evaluation mode, float32.

    In float32 whatever the precision of training: bfloat16 logits tie, and ties favour low labels.
    """
    network.eval()
    for batch in batches:
        yield batch.y, network(batch.x).logits.argmax(dim=1)


def accuracies(
    right: NDArray[np.integer], seen: NDArray[np.integer], train_counts: NDArray[np.integer]
) -> Metrics:
    """Return the metrics from right and seen images per class, each [K]."""
    metrics: Metrics = {"val/top1": 100 * float(right.sum() / seen.sum())}
    for name, member in splits(train_counts).items():
        present = member & (seen > 0)
        per_class = right[present] / seen[present]
        metrics[f"val/{name}"] = 100 * float(per_class.mean()) if present.any() else None
    return metrics
