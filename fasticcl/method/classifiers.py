"""Classifiers of features by name. To add one, write a module here and add a line to `CLASSIFIERS`.

A classifier maps features [B, d_g] to logits [B, K]. Its state dict contains ``weight`` [K, d_g], and the
names in it identify its type, so `restore_classifier` needs no configuration. `reset_parameters`
draws initial weights.
"""

from collections.abc import Callable, Mapping

import torch
from torch import nn
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.errors import UserError, nearest
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.memory import MemoryClassifier
from fasticcl.method.nearest_mean import NearestMeanClassifier


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


Classifier = (
    nn.Linear | CosineClassifier | CausalClassifier | ClassAffine | MemoryClassifier | NearestMeanClassifier
)


def linear(feature_dim: int, num_classes: int, settings: Method) -> nn.Linear:  # noqa: ARG001
    """Return the linear classifier of section 3.1, which has a bias and no settings."""
    return nn.Linear(feature_dim, num_classes)


def cosine(feature_dim: int, num_classes: int, settings: Method) -> CosineClassifier:
    """Return a cosine classifier."""
    return CosineClassifier(feature_dim, num_classes, settings.classifier_scale)


def causal(feature_dim: int, num_classes: int, settings: Method) -> CausalClassifier:
    """Return a causal classifier."""
    return CausalClassifier(
        feature_dim,
        num_classes,
        settings.classifier_scale,
        settings.causal_heads,
        settings.causal_gamma,
        settings.causal_momentum,
        settings.causal_momentum_decay,
    )


CLASSIFIERS: Mapping[str, Callable[[int, int, Method], Classifier]] = {
    "linear": linear,
    "cosine": cosine,
    "causal": causal,
}
"""Trainable classifiers: functions of d_g, K and the section ``method``."""


def build_classifier(settings: Method, feature_dim: int, num_classes: int) -> Classifier:
    """Return a randomly initialised classifier.

    Args:
        settings: the section ``method``, with the name of the classifier.
        feature_dim: d_g.
        num_classes: K.

    Raises:
        UserError: the classifier is unknown, or its settings do not fit the features.
    """
    name = settings.classifier
    if name not in CLASSIFIERS:
        raise UserError(f"There is no classifier {name!r}. {nearest(name, CLASSIFIERS)}")
    return CLASSIFIERS[name](feature_dim, num_classes, settings)


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
        settings = Method(causal_heads=_heads(state, feature_dim))
        for build in CLASSIFIERS.values():
            classifier = build(feature_dim, num_classes, settings)
            if classifier.state_dict().keys() == state.keys():
                return classifier
        if "centroids" in state:
            return MemoryClassifier(feature_dim, num_classes)
        if state.keys() == {"weight", "mean"}:
            return NearestMeanClassifier(feature_dim, num_classes)
    raise RuntimeError("these are not the tensors of a classifier")


def _heads(state: Mapping[str, torch.Tensor], feature_dim: int) -> int:
    """Return the number of heads of a causal classifier, and 1 for other classifiers."""
    mean = state.get("mean")
    return len(mean) if mean is not None and mean.dim() == 2 and mean.numel() == feature_dim else 1
