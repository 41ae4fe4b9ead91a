"""Focal loss of a softmax and of sigmoids."""

import math

import pytest
import torch
from torch.nn import functional as F

from fasticcl.config import Method
from fasticcl.method.focal import Focal, SigmoidFocal
from tests.support import class_loss_oracle as oracle

COUNTS = torch.tensor([50.0, 20, 5, 1, 1])
LOGITS = torch.randn(6, 5, generator=torch.Generator().manual_seed(0)) * 4


def make(kind, gamma):
    return kind(COUNTS, Method(focal_gamma=gamma))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("kind", "reference"), [(Focal, "focal"), (SigmoidFocal, "sigmoid_focal")])
def test_costs_equal_the_definition(kind, reference, gamma):
    expected = getattr(oracle, reference)(LOGITS.double().numpy(), gamma)
    torch.testing.assert_close(
        make(kind, gamma)(LOGITS).double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-9
    )


def test_softmax_focal_with_gamma_0_is_cross_entropy():
    torch.testing.assert_close(make(Focal, 0.0)(LOGITS), -LOGITS.log_softmax(dim=1))


def test_sigmoid_focal_with_gamma_0_is_binary_cross_entropy_summed_over_classes():
    expected = torch.stack(
        [
            F.binary_cross_entropy_with_logits(LOGITS, label.expand(6, 5), reduction="none").sum(dim=1)
            for label in torch.eye(5)
        ],
        dim=1,
    )
    torch.testing.assert_close(make(SigmoidFocal, 0.0)(LOGITS), expected)


@pytest.mark.parametrize("gamma", [0.5, 1.0])
def test_a_confident_correct_prediction_costs_what_float64_says(gamma):
    """log p of float32 rounds to 0 here, and (1 - p)^0.5 has no gradient at 0."""
    logits = torch.tensor([[25.0, 0, 0, 0, 0]], requires_grad=True)
    cost = make(Focal, gamma)(logits)[0, 0]
    (gradient,) = torch.autograd.grad(cost, logits)
    exact = logits.detach().double().requires_grad_()
    rest = 4 * math.exp(-25)  # 1 - p and -log p to first order
    assert cost.item() == pytest.approx(rest ** (1 + gamma), rel=1e-5)
    assert gradient[0, 0].item() == pytest.approx(-(1 + gamma) * rest ** (1 + gamma), rel=1e-5)
    assert torch.autograd.gradcheck(lambda z: make(Focal, gamma)(z)[:, 1:], exact)


def test_only_sigmoid_focal_sets_the_bias_to_the_log_odds_of_one_class_in_k():
    assert torch.sigmoid(torch.tensor(make(SigmoidFocal, 1.0).initial_bias)).item() == pytest.approx(1 / 5)
    assert make(Focal, 1.0).initial_bias is None
