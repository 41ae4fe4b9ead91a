"""Modulated attention: its formula, its start and its gradients, and encoders with it."""

import numpy as np
import pytest
import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method.attention import (
    AttentionEncoder,
    ModulatedAttention,
    add_attention,
    check_attention,
    last_maps,
)
from fasticcl.method.encoders import build_encoder
from fasticcl.method.network import Network

CHANNELS, HEIGHT, WIDTH = 6, 2, 3


def make_attention():
    torch.manual_seed(0)
    attention = ModulatedAttention(CHANNELS, HEIGHT * WIDTH)
    nn.init.normal_(attention.mask.weight)
    nn.init.normal_(attention.g.bias)
    return attention


def maps():
    return torch.randn(4, CHANNELS, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))


def softmax(scores):
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def attended(attention, x):
    """Return the result for the maps [C, H, W] of one image, position by position."""
    state = {name: np.float64(value) for name, value in attention.state_dict().items()}
    vectors = x.reshape(CHANNELS, -1).T  # one for each position

    def project(name):
        weight = state[f"{name}.weight"][:, :, 0, 0]
        return [weight @ vector + state.get(f"{name}.bias", 0) for vector in vectors]

    theta, phi, g = project("theta"), project("phi"), project("g")
    shares = softmax(state["spatial.weight"] @ x.reshape(-1) + state["spatial.bias"])
    mask, result = state["mask.weight"][:, :, 0, 0], []
    for position, vector in enumerate(vectors):
        attention_to = softmax(np.array([theta[position] @ other for other in phi]))
        context = sum(share * other for share, other in zip(attention_to, g, strict=True))
        result.append(vector + shares[position] * (mask @ context))
    return np.array(result).T.reshape(x.shape)


def test_result_is_that_of_the_formula():
    attention = make_attention()
    expected = [attended(attention, x) for x in maps().double().numpy()]
    np.testing.assert_allclose(attention(maps()).detach(), expected, rtol=1e-4, atol=1e-5)


def test_memory_format_does_not_matter():
    attention = make_attention()
    torch.testing.assert_close(attention(maps().to(memory_format=torch.channels_last)), attention(maps()))


def test_bfloat16_maps_stay_bfloat16_and_are_attended_to_in_float32():
    attention, x = make_attention(), maps().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        result = attention(x)
    assert torch.equal(result, attention(x.float()).bfloat16())


def test_attention_starts_without_effect():
    torch.manual_seed(0)
    assert torch.equal(ModulatedAttention(CHANNELS, HEIGHT * WIDTH)(maps()), maps())
    encoder, _ = build_encoder("resnet8")
    images = torch.randn(2, 3, 16, 16)
    encoder.eval()
    assert torch.equal(add_attention(encoder, 16)(images), encoder(images))


def test_new_weights_have_the_shapes_and_distributions_of_the_official_code():
    torch.manual_seed(0)
    attention = ModulatedAttention(256, 49)
    shapes = {name: tuple(value.shape) for name, value in attention.state_dict().items()}
    expected = {"mask.weight": (256, 128, 1, 1), "spatial.weight": (49, 256 * 49), "spatial.bias": (49,)}
    for name in ("theta", "phi", "g"):
        expected |= {f"{name}.weight": (128, 256, 1, 1), f"{name}.bias": (128,)}
        projection = getattr(attention, name)
        assert projection.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.02)
        assert not projection.bias.any()
    assert shapes == expected


def test_all_parameters_of_attention_are_trained():
    """In the official code of 2019, they were frozen by mistake. The first step moves only the mask."""
    torch.manual_seed(0)
    encoder = add_attention(build_encoder("resnet18")[0], 32 * 2)
    network = Network("resnet18", 5)
    network.encoder = encoder
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for step in range(2):
        optimizer.zero_grad()
        network(torch.randn(2, 3, 64, 64)).logits.square().sum().backward()
        trained = {name for name, value in encoder.attention.named_parameters() if value.grad.any()}
        optimizer.step()
        if step == 0:
            assert trained == {"mask.weight"}
    # The bias of φ adds the same number to all scores of a position, so the softmax removes it.
    assert trained >= {name for name, _ in encoder.attention.named_parameters()} - {"phi.bias"}


@pytest.mark.parametrize(
    ("name", "size", "expected"), [("resnet8", 8, (64, 2, 2)), ("resnet50", 224, (2048, 7, 7))]
)
def test_last_maps_are_those_before_the_pooling(name, size, expected):
    encoder, _ = build_encoder(name)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert last_maps(encoder, size) == expected
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


def test_only_encoders_with_7_by_7_positions_are_accepted():
    check_attention(build_encoder("resnet18")[0])
    with pytest.raises(UserError, match=r"7×7 positions .* but this one has 56×56\. Choose another"):
        check_attention(build_encoder("resnet8")[0])


def test_a_state_dict_restores_the_encoder_with_or_without_attention():
    torch.manual_seed(0)
    network = Network("resnet8", 5).eval()
    images = torch.randn(2, 3, 16, 16)
    plain = network(images).logits
    assert not isinstance(Network.restore("resnet8", network.state_dict()).encoder, AttentionEncoder)
    network.encoder = add_attention(network.encoder, 16)
    nn.init.normal_(network.encoder.attention.mask.weight)
    restored = Network.restore("resnet8", network.state_dict()).eval()
    assert torch.equal(restored(images).logits, network.eval()(images).logits)
    assert not torch.allclose(restored(images).logits, plain)
