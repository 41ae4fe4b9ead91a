"""The weights of BBN's tails, and its mixed logits and loss compared with a float64 oracle."""

import pytest
import torch

from fasticcl.method.bilateral import BilateralNetwork, bilateral_loss, conventional_weight
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from tests.support import two_tails_oracle as oracle

PUBLISHED = {
    200: {1: 1, 41: 0.96, 81: 0.84, 121: 0.64, 161: 0.36, 200: 0.009975},
    90: {1: 1, 46: 0.7975, 90: 0.2079},
    180: {1: 1, 180: 0.198975},
    1: {1: 1},
}


@pytest.mark.parametrize("epochs", PUBLISHED)
def test_conventional_weight_has_the_published_values(epochs):
    for epoch, expected in PUBLISHED[epochs].items():
        assert conventional_weight(epoch, epochs) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("epochs", [1, 2, 60, 90, 100, 180, 200, 400])
def test_conventional_weight_decays_from_1_as_in_the_official_code(epochs):
    weights = [conventional_weight(epoch, epochs) for epoch in range(1, epochs + 1)]
    assert weights == [oracle.weight_of_conventional_tail(epoch, epochs) for epoch in range(1, epochs + 1)]
    assert weights[0] == 1
    assert sorted(set(weights), reverse=True) == weights
    assert min(weights) > 0


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = (
        Network("resnet8", num_classes=5, settings=resolve("demo", method="bbn").method).double().train()
    )
    for name, value in network.named_parameters():
        if "bn" in name:
            torch.nn.init.uniform_(value, 0.5, 1.5)
    return network


def pair():
    draw = torch.Generator().manual_seed(1)
    x_h, x_t = torch.randn(2, 6, 3, 8, 8, generator=draw, dtype=torch.float64)
    return x_h, x_t + 1, *torch.randint(5, (2, 6), generator=draw)


@pytest.mark.parametrize("alpha", [1.0, 0.64, 0.5, 0.01])
def test_mixed_logits_and_loss_match_the_float64_oracle(network, alpha):
    x_h, x_t, y_h, y_t = pair()
    weight = torch.tensor(alpha, dtype=torch.float64)
    logits = BilateralNetwork(network)(x_h, x_t, weight)
    expected = oracle.training_logits(network.state_dict(), x_h, x_t, alpha)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)
    loss = bilateral_loss(*(torch.nn.functional.cross_entropy(logits, y) for y in (y_h, y_t)), weight)
    assert loss.item() == pytest.approx(oracle.training_loss(expected, y_h, y_t, alpha).item(), rel=1e-9)


def test_equal_weights_give_the_logits_of_evaluation(network):
    x_h, *_ = pair()
    logits = BilateralNetwork(network.eval())(x_h, x_h, torch.tensor(0.5, dtype=torch.float64))
    torch.testing.assert_close(logits, network(x_h).logits, rtol=1e-12, atol=1e-12)


def test_each_stream_has_its_own_batch_statistics(network):
    x_h, x_t, *_ = pair()
    alpha = torch.tensor(0.5, dtype=torch.float64)
    BilateralNetwork(network)(x_h, x_t, alpha)
    steps = {name: int(value) for name, value in network.state_dict().items() if name.endswith("tracked")}
    assert {name: 2 if ".trunk." in name else 1 for name in steps} == steps
