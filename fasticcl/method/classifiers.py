"""Classifiers of features by name. To add one, write a module here and add a line to `CLASSIFIERS`.

A classifier maps features [B, d_g] to logits [B, K]. Its state dict contains ``weight`` [K, d_g], and the
names in it identify its type, so `restore_classifier` needs no configuration. `reset_parameters`
draws initial weights.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from fasticcl.errors import UserError, nearest
from fasticcl.method.memory import MemoryClassifier
from fasticcl.method.nearest_mean import NearestMeanClassifier


def linear(feature_dim: int, num_classes: int, scale: float = 1.0) -> nn.Linear:  # noqa: ARG001
    """Return the linear classifier of section 3.1, which has a bias and no scale."""
    return nn.Linear(feature_dim, num_classes)


class CosineClassifier(nn.Module):
    """Classifier with the logits s·cos(w_k, f), computed in float32 (LDAM, Cao et al., 2019).

    Args:
        feature_dim: d_g.
        num_classes: K.
        scale: s. It is not trained.
    """

    scale: torch.Tensor

    def __init__(self, feature_dim: int, num_classes: int, scale: float = 30.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, feature_dim))
        self.register_buffer("scale", torch.tensor(float(scale)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights of each class uniformly from [-1, 1] and normalise them."""
        with torch.no_grad():
            self.weight.copy_(F.normalize(self.weight.uniform_(-1, 1), dim=1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of features [B, d_g]."""
        # bfloat16 would round s·cos to multiples of 1/8.
        with torch.autocast(features.device.type, enabled=False):
            cosines = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))
            return self.scale * cosines


class ClassAffine(nn.Module):
    """Another classifier with a factor and an offset for the logit of each class: s_k·z_k + o_k.

    Args:
        base: the classifier that computes z.
        num_classes: K.
    """

    offset: torch.Tensor

    def __init__(self, base: "Classifier", num_classes: int) -> None:
        super().__init__()
        self.base = base
        self.scale = nn.Parameter(torch.ones(num_classes))
        self.register_buffer("offset", torch.zeros(num_classes))

    @property
    def weight(self) -> torch.Tensor:
        """Return the weights of the classes multiplied by their factors, [K, d_g]."""
        return self.scale[:, None] * self.base.weight

    def reset_parameters(self) -> None:
        """Reset the other classifier, the factors to 1 and the offsets to 0."""
        self.base.reset_parameters()
        nn.init.ones_(self.scale)
        nn.init.zeros_(self.offset)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits [B, K] of features [B, d_g]."""
        return self.scale * self.base(features).float() + self.offset


Classifier = nn.Linear | CosineClassifier | ClassAffine | MemoryClassifier | NearestMeanClassifier

CLASSIFIERS: Mapping[str, Callable[..., Classifier]] = {"linear": linear, "cosine": CosineClassifier}
"""Trainable classifiers: functions of d_g, K and the scale s."""


def build_classifier(name: str, feature_dim: int, num_classes: int, scale: float) -> Classifier:
    """Return a randomly initialised classifier.

    Raises:
        UserError: the classifier is unknown.
    """
    if name not in CLASSIFIERS:
        raise UserError(f"There is no classifier {name!r}. {nearest(name, CLASSIFIERS)}")
    return CLASSIFIERS[name](feature_dim, num_classes, scale)


def restore_classifier(state: Mapping[str, torch.Tensor]) -> Classifier:
    """Return the classifier that has this state dict.

    Raises:
        RuntimeError: the state dict does not belong to a classifier.
    """
    base = {name.removeprefix("base."): value for name, value in state.items() if name.startswith("base.")}
    if base and "scale" in state:
        classifier = ClassAffine(restore_classifier(base), len(state["scale"]))
    else:
        classifier = _of_type(state)
    classifier.load_state_dict(state)
    return classifier


def _of_type(state: Mapping[str, torch.Tensor]) -> Classifier:
    """Return a classifier whose state dict has these names and shapes."""
    if "weight" in state and state["weight"].dim() == 2:
        num_classes, feature_dim = state["weight"].shape
        for build in (*CLASSIFIERS.values(), MemoryClassifier, NearestMeanClassifier):
            classifier = build(feature_dim, num_classes)
            if classifier.state_dict().keys() == state.keys():
                return classifier
    raise RuntimeError("these are not the tensors of a classifier")
