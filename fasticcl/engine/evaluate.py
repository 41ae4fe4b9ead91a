"""Accuracy: overall and on the many, medium and few splits (section 4.2)."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fasticcl.data.batch import StreamBatch
from fasticcl.longtail import class_groups
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine

Metrics = dict[str, float | None]
"""Percentages by name; None for a split that has no class."""
METRICS = ("val/top1", "val/many", "val/medium", "val/few")


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
    network.eval()
    (right,), seen = count_correct(network.encoder, [network.classifier], batches, len(train_counts), machine)
    return accuracies(right, seen, train_counts)


def count_correct(
    encoder: nn.Module,
    classifiers: Sequence[nn.Module],
    batches: Iterable[StreamBatch],
    num_classes: int,
    machine: Machine,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return how many images of each class every classifier gets right [C, K], and how many there are [K].

    Args:
        encoder: in evaluation mode; it sees each image once, however many classifiers there are.
        classifiers: C of them, on its features.
        batches: this rank's images; over all ranks each comes once.
        num_classes: K.
        machine: where it runs.
    """
    counts = torch.zeros((len(classifiers) + 1, num_classes), dtype=torch.int64, device=machine.device)
    *right, seen = counts
    for y, predicted in _predictions(encoder, classifiers, batches):
        for of_class, each in zip(right, predicted, strict=True):
            of_class.index_add_(0, y, (each == y).long())
        seen.index_add_(0, y, torch.ones_like(y))
    totals = machine.ranks.all_reduce(counts).cpu().numpy()
    return totals[:-1], totals[-1]


def predictions(
    network: Network, batches: Iterable[StreamBatch]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the labels [B] and the predicted classes [B] of each batch; evaluation mode, float32."""
    network.eval()
    for y, (predicted,) in _predictions(network.encoder, [network.classifier], batches):
        yield y, predicted


@torch.no_grad()
def _predictions(
    encoder: nn.Module, classifiers: Sequence[nn.Module], batches: Iterable[StreamBatch]
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Yield the labels [B] of each batch and what every classifier predicts, each [B].

    In float32 whatever the precision of training: bfloat16 logits tie, and ties favour low labels.
    """
    for batch in batches:
        features = encoder(batch.x)
        yield batch.y, [classifier(features).argmax(dim=1) for classifier in classifiers]


def accuracies(
    right: NDArray[np.integer], seen: NDArray[np.integer], train_counts: NDArray[np.integer]
) -> Metrics:
    """Return the metrics from right and seen images per class, each [K]."""
    metrics: Metrics = {"val/top1": 100 * float(right.sum() / seen.sum())}
    for name, member in class_groups(train_counts).items():
        present = member & (seen > 0)
        per_class = right[present] / seen[present]
        metrics[f"val/{name}"] = 100 * float(per_class.mean()) if present.any() else None
    return metrics


def balanced_accuracy(right: NDArray[np.integer], seen: NDArray[np.integer]) -> float | None:
    """Return the mean accuracy, in percent, of the classes that have an image; None without any."""
    present = seen > 0
    return 100 * float((right[present] / seen[present]).mean()) if present.any() else None
