"""Logit adjustment and balanced softmax against their definitions in float64."""

import pytest
import torch

from fasticcl.config import Method
from fasticcl.longtail import exponential_counts
from fasticcl.method.logit_adjustment import BalancedSoftmax, LogitAdjustment, log_prior
from tests.support import class_loss_oracle as oracle

COUNTS = torch.tensor([100.0, 10, 1])
LOGITS = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [200, -200, 0]])


def adjusted(tau):
    return LogitAdjustment(COUNTS, Method(logit_adjustment_tau=tau))(LOGITS)


@pytest.mark.parametrize(
    ("largest", "classes", "ratio", "first", "last"),
    [
        (500, 100, 100, -3.077, -7.682),
        (500, 100, 50, -3.227, -7.140),
        (500, 100, 10, -3.667, -5.970),
        (5000, 10, 100, -0.909, -5.514),
        (5000, 10, 50, -1.029, -4.941),
        (5000, 10, 10, -1.408, -3.710),
    ],
)
def test_log_prior_of_cifar_lt(largest, classes, ratio, first, last):
    prior = log_prior(torch.from_numpy(exponential_counts(largest, classes, ratio)))
    assert (prior[0].item(), prior[-1].item()) == pytest.approx((first, last), abs=5e-4)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_the_log_prior_is_added_tau_times(tau):
    expected = oracle.logit_adjustment(LOGITS.double().numpy(), COUNTS.double().numpy(), tau)
    torch.testing.assert_close(adjusted(tau).double(), torch.from_numpy(expected), rtol=2e-6, atol=1e-6)


def test_balanced_softmax_weights_the_exponentials_by_class_counts():
    costs = BalancedSoftmax(COUNTS, Method(logit_adjustment_tau=0.3))(LOGITS[:2])
    expected = oracle.balanced_softmax(LOGITS[:2].double().numpy(), COUNTS.double().numpy())
    torch.testing.assert_close(costs.double(), torch.from_numpy(expected), rtol=2e-6, atol=1e-6)


def test_balanced_softmax_is_logit_adjustment_with_tau_1():
    assert torch.equal(BalancedSoftmax(COUNTS, Method(logit_adjustment_tau=0.3))(LOGITS), adjusted(1.0))


def test_no_adjustment_and_equal_counts_give_cross_entropy():
    expected = -LOGITS.log_softmax(dim=1)
    assert torch.equal(adjusted(0.0), expected)
    torch.testing.assert_close(BalancedSoftmax(torch.full((3,), 7.0), Method())(LOGITS), expected)
