"""The encoder with two tails: its blocks, parameters, features and state dict."""

import pytest
import torch
from torch import nn

from fasticcl.errors import UserError
from fasticcl.method import encoders
from fasticcl.method.encoders import ENCODERS, build_encoder
from fasticcl.method.network import Network
from fasticcl.method.two_tails import TwoTailEncoder, has_two_tails
from fasticcl.resolve import resolve

BBN = resolve("demo", method="bbn").method
CIFAR_BLOCK = 2 * 64 * 64 * 9 + 4 * 64
LAST_BLOCKS = {
    "resnet8": 32 * 64 * 9 + 64 * 64 * 9 + 4 * 64,
    "resnet14": CIFAR_BLOCK,
    "resnet20": CIFAR_BLOCK,
    "resnet32": CIFAR_BLOCK,
    "resnet18": 2 * 512 * 512 * 9 + 4 * 512,
    "resnet34": 2 * 512 * 512 * 9 + 4 * 512,
    "resnet50": 2 * 2048 * 512 + 512 * 512 * 9 + 2 * (512 + 512 + 2048),
    "resnet101": 2 * 2048 * 512 + 512 * 512 * 9 + 2 * (512 + 512 + 2048),
    "resnext50_32x4d": 2 * 2048 * 1024 + 1024 * 32 * 9 + 2 * (1024 + 1024 + 2048),
    "resnext101_32x8d": 2 * 2048 * 2048 + 2048 * 64 * 9 + 6 * 2048,
}
"""Parameters of the last residual block: convolutions, weights and biases of batch normalisation."""


def parameter_count(module):
    return sum(each.numel() for each in module.parameters())


def test_every_shipped_encoder_has_two_tails():
    assert LAST_BLOCKS.keys() == {*ENCODERS}


@pytest.mark.parametrize("name", LAST_BLOCKS)
def test_only_the_last_residual_block_exists_twice(name):
    with torch.device("meta"):
        encoder, (base, feature_dim) = TwoTailEncoder(name), build_encoder(name)
    assert encoder.feature_dim == 2 * feature_dim
    assert parameter_count(encoder) == parameter_count(base) + LAST_BLOCKS[name]
    assert parameter_count(encoder.conventional) == parameter_count(encoder.rebalancing) == LAST_BLOCKS[name]


@pytest.mark.parametrize("name", LAST_BLOCKS)
def test_a_tail_with_the_weights_of_the_original_encoder_has_its_features(name):
    with torch.device("meta"):
        encoder, (base, _) = TwoTailEncoder(name), build_encoder(name)
    base.to_empty(device="cpu").eval()
    for key, value in base.state_dict().items():
        if value.is_floating_point():
            value.uniform_(*((0.5, 1.5) if key.endswith("var") else (-0.05, 0.1)))
    one_tail = [key for key in encoder.state_dict() if not key.startswith("rebalancing.")]
    tensors = dict(zip(one_tail, base.state_dict().values(), strict=True))  # both in the order of the layers
    tensors |= {
        key.replace("conventional.", "rebalancing."): value
        for key, value in tensors.items()
        if key.startswith("conventional.")
    }
    encoder.load_state_dict(tensors, assign=True)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        expected = base(images)
        assert expected.any()
        assert torch.equal(encoder.eval().conventional_features(images), expected)
        assert torch.equal(encoder.rebalancing_features(images), expected)
        assert torch.equal(encoder(images), torch.cat([expected, expected], dim=1))


def test_tails_start_from_different_weights():
    torch.manual_seed(0)
    encoder = TwoTailEncoder("resnet8").eval()
    images = torch.randn(2, 3, 16, 16)
    one, other = encoder.conventional_features(images), encoder.rebalancing_features(images)
    assert not torch.allclose(one, other)
    assert torch.equal(encoder(images), torch.cat([one, other], dim=1))


@pytest.mark.parametrize("classifier", ["linear", "cosine"])
def test_state_dict_restores_both_tails(classifier):
    torch.manual_seed(0)
    settings = BBN.model_copy(update={"classifier": classifier})
    network = Network("resnet14", num_classes=5, settings=settings).eval()
    restored = Network.restore("resnet14", network.state_dict()).eval()
    images = torch.randn(3, 3, 16, 16)
    assert isinstance(restored.encoder, TwoTailEncoder)
    assert torch.equal(restored(images).logits, network(images).logits)
    assert not has_two_tails(Network("resnet14", num_classes=5).state_dict())
    with pytest.raises(RuntimeError):
        Network.restore("resnet8", network.state_dict())


def test_encoder_without_blocks_is_rejected(monkeypatch):
    monkeypatch.setattr(encoders, "ENCODERS", {"plain": lambda: (nn.Flatten(), 3)})
    with pytest.raises(UserError, match="Flatten has no method named_blocks"):
        TwoTailEncoder("plain")
