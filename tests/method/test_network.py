"""Encoders, projection head, embeddings and split batch normalisation."""

import copy

import pytest
import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method.cifar_resnet import BasicBlock
from fasticcl.method.encoders import build_encoder
from fasticcl.method.network import Network


def parameter_count(module):
    return sum(p.numel() for p in module.parameters())


def images(size, side=32, seed=0, dtype=torch.float32):
    return torch.randn(size, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_resnet32_has_the_published_number_of_parameters():
    network = Network("resnet32", num_classes=100)
    assert parameter_count(network.encoder) == 463_504
    assert parameter_count(network) == 470_004


@pytest.mark.parametrize(
    ("name", "convolutions"), [("resnet8", 7), ("resnet14", 13), ("resnet20", 19), ("resnet32", 31)]
)
def test_the_name_of_a_cifar_encoder_counts_its_layers(name, convolutions):
    encoder, _ = build_encoder(name)  # the last layer is the classifier
    assert sum(isinstance(m, nn.Conv2d) for m in encoder.modules()) == convolutions


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet8", 64), ("resnet32", 64), ("resnet18", 512), ("resnet50", 2048), ("resnext50_32x4d", 2048)],
)
def test_features_have_the_promised_size(name, size):
    encoder, feature_dim = build_encoder(name)
    with torch.no_grad():
        assert encoder.eval()(images(2)).shape == (2, size)
    assert feature_dim == size


@pytest.mark.parametrize("name", ["resnet32", "resnet50", "resnext50_32x4d"])
def test_the_projection_head_is_linear_relu_linear_without_batch_norm(name):
    with torch.device("meta"):
        network = Network(name, num_classes=10, embedding_dim=32)
        d_g = build_encoder(name)[1]
    first, between, last = network.projection
    assert (type(first), type(between), type(last)) == (nn.Linear, nn.ReLU, nn.Linear)
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


def test_a_network_without_projection_head_has_no_embeddings():
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


@pytest.mark.parametrize(("inside", "outside"), [(16, 32), (32, 64)])
@pytest.mark.parametrize("side", [8, 7])
def test_a_downsampling_shortcut_takes_every_second_pixel_and_pads_channels_on_both_sides(
    inside, outside, side
):
    block = BasicBlock(inside, outside, stride=2)
    nn.init.zeros_(block.bn2.weight)  # leaves the shortcut alone
    x = torch.rand(2, inside, side, side)
    rows = (side + 1) // 2
    zeros = torch.zeros(2, (outside - inside) // 2, rows, rows)
    assert torch.equal(block(x), torch.cat([zeros, x[:, :, ::2, ::2], zeros], dim=1))


def test_a_shortcut_without_downsampling_is_the_identity_and_is_added():
    block = BasicBlock(16, 16, stride=1)
    x = torch.randn(2, 16, 8, 8)
    residual = block.bn2(block.conv2(block.bn1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (x + residual).relu())


def two_passes_and_one(encoder, streams):
    """Outputs, gradients and buffers of two passes through a network, and of one pass of a split one."""
    apart = Network(encoder, num_classes=5, embedding_dim=8).double()
    joint = Network(encoder, num_classes=5, embedding_dim=8, split_bn=True).double()
    joint.load_state_dict(copy.deepcopy(apart.state_dict()))
    joint.set_num_streams(streams)
    a, b = (images(4, side=16, seed=seed, dtype=torch.float64) for seed in (1, 2))
    b = 3 + 2 * b
    passes = [apart(a), apart(b)]
    logits = torch.cat([out.logits for out in passes])
    embedding = torch.cat([out.embedding for out in passes])
    found = []
    for network, outputs in ((apart, (logits, embedding)), (joint, joint(torch.cat([a, b])))):
        weights = torch.Generator().manual_seed(3)
        sum((out * torch.randn(out.shape, generator=weights)).sum() for out in outputs).backward()
        tensors = {"logits": outputs[0], "embedding": outputs[1]}
        tensors |= {f"gradient {name}": p.grad for name, p in network.named_parameters()}
        tensors |= {f"buffer {name}": buffer for name, buffer in network.named_buffers()}
        found.append({name: tensor.detach() for name, tensor in tensors.items()})
    return found


@pytest.mark.parametrize("encoder", ["resnet8", "resnet18"])
def test_one_pass_with_split_statistics_equals_two_separate_passes(encoder):
    apart, joint = two_passes_and_one(encoder, streams=2)
    assert apart.keys() == joint.keys()
    for name in apart:
        # Embeddings are float32 in every network: gradients may be no more exact than that.
        torch.testing.assert_close(joint[name], apart[name], rtol=1e-5, atol=1e-6, msg=f"{name} differs")


def test_one_pass_without_splitting_differs_from_two_separate_passes():
    apart, joint = two_passes_and_one("resnet8", streams=1)
    for name in ("logits", "embedding", "gradient encoder.conv.weight", "buffer encoder.bn.running_var"):
        assert (apart[name] - joint[name]).abs().max() > 1e-3


def test_a_network_that_was_not_asked_to_split_does_not():
    network, x = Network("resnet8", num_classes=5), images(4)
    before = network(x).logits
    network.set_num_streams(2)
    assert torch.equal(network(x).logits, before)


def test_split_and_plain_networks_share_their_weight_files():
    plain, split = (Network("resnet8", num_classes=5, embedding_dim=8, split_bn=s) for s in (False, True))
    assert plain.state_dict().keys() == split.state_dict().keys()


@pytest.mark.parametrize("size", [1, 3, 4])
def test_evaluation_ignores_streams(size):
    network, x = Network("resnet8", num_classes=5, embedding_dim=8, split_bn=True), images(size)
    network(images(8, seed=5))  # statistics unlike those of x
    network.eval()
    state = copy.deepcopy(network.state_dict())
    expected = network(x)
    network.set_num_streams(2)
    ours = network(x)
    torch.testing.assert_close(ours.logits, expected.logits)
    torch.testing.assert_close(ours.embedding, expected.embedding)
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize("embedding_dim", [0, 8])
def test_parts_of_an_output_are_the_halves_of_the_batch(embedding_dim):
    out = Network("resnet8", num_classes=5, embedding_dim=embedding_dim).eval()(images(6))
    for stream, rows in ((0, slice(0, 3)), (1, slice(3, 6))):
        part = out.half(stream)
        assert torch.equal(part.logits, out.logits[rows])
        if embedding_dim:
            assert torch.equal(part.embedding, out.embedding[rows])
        else:
            assert part.embedding is None


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("resnet-32", r"Did you mean resnet32\?"),
        ("resnext50-32x4d", r"Did you mean resnext50_32x4d\?"),
        ("vit", r"Known: resnet8, .*resnext101_32x8d\."),
    ],
)
def test_an_unknown_encoder_is_refused_with_a_suggestion(name, hint):
    with pytest.raises(UserError, match=rf"'{name}'\. {hint}"):
        Network(name, num_classes=5)
