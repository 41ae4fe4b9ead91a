"""The network of section 3.1: encoder, projection head and classifier."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.method.attention import restore_attention
from fasticcl.method.batch_norm import SplitBatchNorm2d, replace_batch_norm, set_num_streams
from fasticcl.method.classifiers import Classifier, build_classifier, restore_classifier
from fasticcl.method.encoders import build_encoder
from fasticcl.method.manifold_mixup import Mixing, mixed_features
from fasticcl.method.two_tails import TwoTailEncoder, has_two_tails


class Output(NamedTuple):
    """Logits and embeddings of a forward pass."""

    logits: torch.Tensor
    """[B, K] class logits."""
    embedding: torch.Tensor | None
    """[B, d_z] unit vectors z in float32, or None without a projection head."""

    def half(self, index: int) -> "Output":
        """Return the first (0) or second (1) half of the batch."""
        half = len(self.logits) // 2
        rows = slice(index * half, (index + 1) * half)
        return Output(self.logits[rows], None if self.embedding is None else self.embedding[rows])


class Network(nn.Module):
    """Encoder, classifier and, in the representation stage, a projection head.

    Args:
        encoder: name of the CNN encoder.
        num_classes: K.
        embedding_dim: d_z, or 0 for a network without a projection head.
        split_bn: if True, batch statistics can be computed per stream. See `set_num_streams`.
        settings: the section ``method``, for the classifier and the tails of the encoder. None: a linear
            classifier and one tail.

    Raises:
        UserError: the encoder or the classifier is unknown, or the classifier does not fit the features.
    """

    def __init__(
        self,
        encoder: str,
        num_classes: int,
        embedding_dim: int = 0,
        split_bn: bool = False,
        settings: Method | None = None,
    ) -> None:
        super().__init__()
        settings = settings or Method()
        if settings.first_stage == "bbn":
            self.encoder = TwoTailEncoder(encoder)
            feature_dim = self.encoder.feature_dim
        else:
            self.encoder, feature_dim = build_encoder(encoder)
        self.classifier: Classifier = build_classifier(settings, feature_dim, num_classes)
        self.projection = (
            nn.Sequential(
                nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, embedding_dim)
            )
            if embedding_dim
            else None
        )
        if split_bn:
            replace_batch_norm(self, SplitBatchNorm2d)

    @classmethod
    def restore(cls, encoder: str, state: Mapping[str, torch.Tensor]) -> "Network":
        """Return the network with this state dict, without its projection head.

        Args:
            encoder: name of the CNN encoder.
            state: state dict of a network with any classifier and one or two tails.

        Raises:
            RuntimeError: the state dict does not belong to a network with this encoder.
        """
        network = cls(encoder, num_classes=1)
        if has_two_tails(state):
            network.encoder = TwoTailEncoder(encoder)
        network.encoder = restore_attention(network.encoder, state)
        network.classifier = classifier_of(state)
        network.load_state_dict(
            {name: value for name, value in state.items() if not name.startswith("projection.")}
        )
        return network

    def forward(self, images: torch.Tensor, mixing: Mixing | None = None) -> Output:
        """Return the logits and embeddings of images [B, 3, H, W].

        Args:
            images: the images.
            mixing: a second stream, with which the images are mixed after a block of the encoder.
        """
        features = self.encoder(images) if mixing is None else mixed_features(self.encoder, images, mixing)
        logits = self.classifier(features)
        if self.projection is None:
            return Output(logits, None)
        return Output(logits, F.normalize(self.projection(features).float(), dim=1))

    def set_num_streams(self, num_streams: int) -> None:
        """Set the number of streams concatenated in a batch. Without ``split_bn`` this has no effect."""
        set_num_streams(self, num_streams)


def classifier_of(state: Mapping[str, torch.Tensor]) -> Classifier:
    """Return the classifier in the state dict of a network.

    Raises:
        RuntimeError: the state dict does not contain a classifier.
    """
    prefix = "classifier."
    return restore_classifier(
        {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    )
