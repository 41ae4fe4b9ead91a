"""Models with every type of classifier, whose features are averages of pixels."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

from fasticcl.engine.run.weights import Description, Model
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine, CosineClassifier
from fasticcl.method.memory import MemoryClassifier
from fasticcl.method.nearest_mean import NearestMeanClassifier
from fasticcl.method.network import Network
from tests.support.classifier_oracle import classifier_logits

CLASSES, FEATURES, SIDE = 5, 12, 8


def class_affine(base):
    classifier = ClassAffine(base, CLASSES)
    with torch.no_grad():
        classifier.scale.uniform_(0.5, 2)
        classifier.offset.uniform_(-1, 1)
    return classifier


def nearest_mean_classifier():
    classifier = NearestMeanClassifier(FEATURES, CLASSES)
    with torch.no_grad():
        classifier.weight.normal_()
        classifier.mean.normal_()
    return classifier


def causal_classifier():
    classifier = CausalClassifier(FEATURES, CLASSES, heads=3)
    classifier.alpha.fill_(1.5)
    classifier.mean.uniform_(-1, 1)
    return classifier


def memory_classifier():
    classifier = MemoryClassifier(FEATURES, CLASSES)
    torch.nn.init.normal_(classifier.centroids)
    return classifier


CLASSIFIERS = {
    "linear": lambda: nn.Linear(FEATURES, CLASSES),
    "cosine": lambda: CosineClassifier(FEATURES, CLASSES, 16.0),
    "affine": lambda: class_affine(nn.Linear(FEATURES, CLASSES)),
    "memory": memory_classifier,
    "nearest mean": nearest_mean_classifier,
    "causal": causal_classifier,
    "affine cosine": lambda: class_affine(CosineClassifier(FEATURES, CLASSES, 8.0)),
}


def make_model(kind):
    """Return a model whose features are the 2×2 averages of the normalised pixels."""
    torch.manual_seed(1)
    network = Network("resnet8", CLASSES)
    network.encoder = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    network.classifier = CLASSIFIERS[kind]()
    description = Description(
        dataset="folder",
        method="ce",
        encoder="resnet8",
        classes=[*"abcde"],
        train_counts=[9, 7, 5, 3, 1],
        image_size=SIDE,
        eval_resize=0,
        mean=(0.5, 0.4, 0.3),
        std=(0.3, 0.2, 0.25),
    )
    return Model(network.eval().requires_grad_(False), description, Path("model.safetensors"), run=None)


def expected_logits(model, pixels):
    """Return the logits of pixels [B, S, S, 3] in float64."""
    normalised = (np.float64(pixels) / 255 - model.description.mean) / model.description.std
    half = SIDE // 2
    pooled = normalised.transpose(0, 3, 1, 2).reshape(len(pixels), 3, 2, half, 2, half).mean(axis=(3, 5))
    return classifier_logits(model.network.classifier.state_dict(), pooled.reshape(len(pixels), -1))
