"""Encoder size, projection head, embeddings and outputs of a network."""

import pytest
import torch
from torch import nn

from fasticcl.config import Method
from fasticcl.method.encoders import build_encoder
from fasticcl.method.network import Network


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


def images(size, side=32, seed=0):
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_resnet32_has_the_published_number_of_parameters():
    network = Network("resnet32", num_classes=100)
    assert parameter_count(network.encoder) == 463_504
    assert parameter_count(network) == 470_004


@pytest.mark.parametrize("name", ["resnet32", "resnet50", "resnext50_32x4d"])
def test_projection_head_is_linear_relu_linear_without_batch_norm(name):
    with torch.device("meta"):
        network = Network(name, num_classes=10, embedding_dim=32)
        d_g = build_encoder(name)[1]
    first, activation, last = network.projection
    assert (type(first), type(activation), type(last)) == (nn.Linear, nn.ReLU, nn.Linear)
    assert first.weight.shape == (d_g, d_g)
    assert last.weight.shape == (32, d_g)
    assert network.classifier.weight.shape == (10, d_g)


@pytest.mark.parametrize("autocast", [False, True])
def test_embeddings_are_float32_unit_vectors(autocast):
    network = Network("resnet8", num_classes=5, embedding_dim=16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        logits, embedding = network(images(6))
    assert logits.shape == (6, 5)
    assert embedding.shape == (6, 16)
    assert embedding.dtype == torch.float32
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(6))


def test_network_without_a_projection_head_has_no_embeddings():
    network = Network("resnet8", num_classes=5)
    assert network.projection is None
    assert network(images(2)).embedding is None


def test_logits_and_embeddings_come_from_the_encoder_features():
    network = Network("resnet8", num_classes=5, embedding_dim=16).eval()
    x = images(3)
    features = network.encoder(x)
    logits, embedding = network(x)
    torch.testing.assert_close(logits, network.classifier(features))
    projected = network.projection(features)
    torch.testing.assert_close(embedding, projected / projected.norm(dim=1, keepdim=True))


@pytest.mark.parametrize("embedding_dim", [0, 8])
def test_halves_of_an_output_match_the_halves_of_the_batch(embedding_dim):
    out = Network("resnet8", num_classes=5, embedding_dim=embedding_dim).eval()(images(6))
    for index, rows in ((0, slice(0, 3)), (1, slice(3, 6))):
        half = out.half(index)
        assert torch.equal(half.logits, out.logits[rows])
        if embedding_dim:
            assert torch.equal(half.embedding, out.embedding[rows])
        else:
            assert half.embedding is None


@pytest.mark.parametrize("classifier", ["linear", "cosine", "causal"])
def test_a_state_dict_restores_the_network_without_projection_head(classifier: str):
    settings = Method(classifier=classifier)
    network = Network("resnet8", num_classes=5, embedding_dim=16, settings=settings).eval()
    restored = Network.restore("resnet8", network.state_dict()).eval()
    assert restored.projection is None
    assert torch.equal(restored(images(6)).logits, network(images(6)).logits)


def test_a_state_dict_of_another_encoder_is_refused():
    with pytest.raises(RuntimeError):
        Network.restore("resnet14", Network("resnet8", num_classes=5).state_dict())
