"""Accuracy: overall and of the class groups many, medium and few (section 4.2).

**Precision.** On a GPU, the encoder has the precision of training: bfloat16 autocast or float32. The
classifier gets float32 features and computes float32 logits. Logits rounded to bfloat16, which has 8
significant bits, are often equal, and argmax then favours low class indices. On a CPU, evaluation always uses
float32.

**Compilation.** If training on a GPU is compiled, the encoder is compiled too, with the intermediate rounding
of eager mode. `fasticcl eval` is eager, but it has the same precision, so both report the same accuracies.
On a CPU, compiled and eager bfloat16 features were equal to the bit. On a GPU this has not been tested, and
cuDNN may choose other algorithms.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from fasticcl.data.batch import StreamBatch
from fasticcl.longtail import class_groups
from fasticcl.method.network import Network
from fasticcl.system.machine import Machine
from fasticcl.system.precision import float32_convolutions

Metrics = dict[str, float | None]
"""Accuracies in percent by name. None for a class group without images."""
METRICS = ("val/top1", "val/many", "val/medium", "val/few")
NOT_EVALUATED: Metrics = dict.fromkeys(METRICS)
"""Metrics in the record of an epoch without evaluation."""


def is_evaluated(record: Mapping[str, Any]) -> bool:
    """Return True if the record of an epoch contains accuracies."""
    return record["val/top1"] is not None


def evaluate(
    network: Network, batches: Iterable[StreamBatch], train_counts: NDArray[np.integer], machine: Machine
) -> Metrics:
    """Return the top-1 accuracy in percent, overall and for each class group.

    The overall accuracy is the fraction of correctly classified images. The accuracy of a class group is the
    mean of the accuracies of its classes.

    Args:
        network: the network. It is left in evaluation mode.
        batches: images of this rank. Each image must occur on exactly one rank.
        train_counts: [K] training images per class, which define the class groups.
        machine: device, precision, compilation and ranks.
    """
    network.eval()
    (correct,), total = count_correct(
        network.encoder, [network.classifier], batches, len(train_counts), machine
    )
    return accuracies(correct, total, train_counts)


def count_correct(
    encoder: nn.Module,
    classifiers: Sequence[nn.Module],
    batches: Iterable[StreamBatch],
    num_classes: int,
    machine: Machine,
) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    """Return the correctly classified images per classifier and class [C, K], and all images per class [K].

    Args:
        encoder: encoder in evaluation mode. It processes each image once for all classifiers.
        classifiers: C classifiers of its features.
        batches: images of this rank. Each image must occur on exactly one rank.
        num_classes: K.
        machine: device, precision, compilation and ranks.
    """
    counts = torch.zeros((len(classifiers) + 1, num_classes), dtype=torch.int64, device=machine.device)
    *correct, total = counts
    for y, predicted in _predictions(encoder, classifiers, batches, machine):
        for correct_of_classifier, classes in zip(correct, predicted, strict=True):
            correct_of_classifier.index_add_(0, y, (classes == y).long())
        total.index_add_(0, y, torch.ones_like(y))
    summed = machine.ranks.all_reduce(counts).cpu().numpy()
    return summed[:-1], summed[-1]


def predictions(
    network: Network, batches: Iterable[StreamBatch], machine: Machine
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the labels [B] and the predicted classes [B] of each batch, in evaluation mode."""
    network.eval()
    for y, (predicted,) in _predictions(network.encoder, [network.classifier], batches, machine):
        yield y, predicted


@torch.no_grad()
def _predictions(
    encoder: nn.Module, classifiers: Sequence[nn.Module], batches: Iterable[StreamBatch], machine: Machine
) -> Iterator[tuple[torch.Tensor, list[torch.Tensor]]]:
    """Yield the labels [B] of each batch and the predicted classes [B] of every classifier."""
    encode = feature_extractor(encoder, machine)
    for batch in batches:
        features = encode(batch.x)
        yield batch.y, [classifier(features).argmax(dim=1) for classifier in classifiers]


def feature_extractor(encoder: nn.Module, machine: Machine) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a function that maps images [B, 3, S, S] to float32 features [B, d_g]."""
    if machine.gpu is None:
        return encoder
    compiled = _compile(encoder, machine) if machine.compiled else encoder

    def features(images: torch.Tensor) -> torch.Tensor:
        with machine.autocast() if machine.bfloat16 else float32_convolutions():
            return compiled(images).float()

    return features


def _compile(encoder: nn.Module, machine: Machine) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the compiled encoder. Smaller batches than the first are padded, to compile only once.

    torch reuses the compiled code in later evaluations of the same encoder. CUDA graphs are not used.
    """
    forward = machine.compile(encoder, dynamic=False, options={"emulate_precision_casts": True})
    size = 0

    def features(images: torch.Tensor) -> torch.Tensor:
        nonlocal size
        size = max(size, len(images))
        if len(images) == size:
            return forward(images)
        padded = images.new_zeros((size, *images.shape[1:])).to(memory_format=torch.channels_last)
        padded[: len(images)] = images
        return forward(padded)[: len(images)]

    return features


def accuracies(
    correct: NDArray[np.integer], total: NDArray[np.integer], train_counts: NDArray[np.integer]
) -> Metrics:
    """Return the metrics for the numbers of correct images and of all images per class, both [K]."""
    metrics: Metrics = {"val/top1": 100 * float(correct.sum() / total.sum())}
    for name, members in class_groups(train_counts).items():
        present = members & (total > 0)
        per_class = correct[present] / total[present]
        metrics[f"val/{name}"] = 100 * float(per_class.mean()) if present.any() else None
    return metrics


def balanced_accuracy(correct: NDArray[np.integer], total: NDArray[np.integer]) -> float | None:
    """Return the mean of the per-class accuracies in percent, or None if there is no image."""
    present = total > 0
    return 100 * float((correct[present] / total[present]).mean()) if present.any() else None
