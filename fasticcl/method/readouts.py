"""Readouts: classifiers that are computed from a trained network without training it.

To add one, write a function and add a line to `READOUTS`.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fasticcl.errors import UserError, nearest
from fasticcl.method import logit_adjustment
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine, Classifier
from fasticcl.method.nearest_mean import nearest_mean


@dataclass(frozen=True)
class ReadoutInputs:
    """The inputs of a readout."""

    classifier: Classifier
    """Classifier of the first stage, on the CPU."""
    counts: torch.Tensor
    """[K] training images per class."""
    tau: float
    """τ, ``rebalance.tau``."""
    alpha: float
    """α, ``rebalance.alpha``."""
    features: Iterable[tuple[torch.Tensor, torch.Tensor]]
    """Batches of float32 features [B, d_g] of the training images of this rank and their classes [B], on
    the CPU. They are computed when they are iterated, which can be repeated."""
    all_reduce: Callable[[torch.Tensor], torch.Tensor] = lambda total: total
    """Returns the sum of a tensor over all ranks."""


@dataclass(frozen=True)
class Readout:
    """A readout and its requirements."""

    compute: Callable[[ReadoutInputs], Classifier]
    settings: tuple[str, ...] = ()
    """The keys of ``rebalance`` that it uses."""
    classifier: type[nn.Module] = nn.Module
    """The type of classifier that it requires."""
    requirement: str = ""
    """This type in words, the reason, and the next action with another type."""
    reads_features: bool = False
    """True if it reads the features of all training images."""


def tau_norm(inputs: ReadoutInputs) -> nn.Linear:
    """Return the τ-normalised classifier (Kang et al., 2020): weights w_k / ‖w_k‖^τ, without bias.

    τ = 0 keeps the weights, and τ = 1 makes all norms equal.
    """
    weight = inputs.classifier.weight.detach().double()
    norms = weight.norm(dim=1, keepdim=True).clamp(min=1e-12)
    classifier = nn.Linear(weight.shape[1], len(weight))
    with torch.no_grad():
        classifier.weight.copy_(weight / norms**inputs.tau)
        classifier.bias.zero_()
    return classifier


def log_prior(inputs: ReadoutInputs) -> Classifier:
    """Return the classifier of post-hoc logit adjustment (Menon et al., 2021), z_k - τ·log(n_k / N)."""
    adjustment = inputs.tau * logit_adjustment.log_prior(inputs.counts)
    classifier = copy.deepcopy(inputs.classifier)
    if not isinstance(classifier, nn.Linear):
        classifier = ClassAffine(classifier, len(inputs.counts))
    offset = classifier.bias if isinstance(classifier, nn.Linear) else classifier.offset
    with torch.no_grad():
        offset.copy_(offset.double() - adjustment)
    return classifier


def ncm(inputs: ReadoutInputs) -> Classifier:
    """Return the classifier of the nearest class mean (Kang et al., 2020)."""
    num_classes, feature_dim = inputs.classifier.weight.shape
    return nearest_mean(inputs.features, feature_dim, num_classes, inputs.all_reduce)


def tde(inputs: ReadoutInputs) -> Classifier:
    """Return the causal classifier with α, which computes the total direct effect (Tang et al., 2020)."""
    classifier = copy.deepcopy(inputs.classifier)
    assert isinstance(classifier, CausalClassifier)  # see `find_readout`
    classifier.alpha.fill_(inputs.alpha)
    return classifier


READOUTS: Mapping[str, Readout] = {
    "log_prior": Readout(log_prior, ("tau",)),
    "ncm": Readout(ncm, reads_features=True),
    "tau_norm": Readout(
        tau_norm,
        ("tau",),
        nn.Linear,
        "a linear classifier, because others normalise their weights. Use the method ncm or "
        "logit-adjustment-post-hoc instead.",
    ),
    "tde": Readout(
        tde,
        ("alpha",),
        CausalClassifier,
        "a causal classifier, because it removes the effect of the mean feature, which only this classifier "
        "records. Train one with --method tde.",
    ),
}


def find_readout(name: str, classifier: Classifier | None = None) -> Readout:
    """Return the readout with a name.

    Args:
        name: a key of `READOUTS`.
        classifier: classifier of the first stage, or None if it is not known.

    Raises:
        UserError: there is no such readout, or it does not support this classifier.
    """
    if name not in READOUTS:
        raise UserError(f"There is no readout {name!r}. {nearest(name, [*READOUTS, 'none'])}")
    readout = READOUTS[name]
    if classifier is not None and not isinstance(classifier, readout.classifier):
        raise UserError(f"The readout {name} requires {readout.requirement}")
    return readout
