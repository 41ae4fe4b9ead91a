"""LDAM: margins, and costs in float32 against the definition in float64."""

import pytest
import torch

from fasticcl.config import Method
from fasticcl.longtail import exponential_counts
from fasticcl.method.ldam import LDAM
from tests.support import class_loss_oracle as oracle

COUNTS = torch.tensor([500.0, 60, 5])
COSINES = torch.tensor([[0.95, -0.3, 0.1], [-1, 1, 1], [0.2, 0.25, 0.3], [1, -1, -1], [-1, -1, 1]])


def make(counts=COUNTS, **settings):
    return LDAM(counts, Method(**{"classifier": "cosine", **settings}))


@pytest.mark.parametrize(
    ("largest", "classes", "ratio", "first"),
    [
        (500, 100, 100, 0.1581),
        (500, 100, 50, 0.1880),
        (500, 100, 10, 0.2812),
        (5000, 10, 100, 0.1581),
        (5000, 10, 50, 0.1880),
        (5000, 10, 10, 0.2812),
    ],
)
def test_margins_of_cifar_lt_are_those_of_the_definition(largest, classes, ratio, first):
    counts = torch.from_numpy(exponential_counts(largest, classes, ratio)).float()
    margins = make(counts, classifier="linear").margins
    assert margins[0].item() == pytest.approx(first, abs=5e-5)
    assert margins[-1].item() == pytest.approx(0.5, rel=1e-6)
    torch.testing.assert_close(make(counts, ldam_margin=0.3, classifier_scale=20.0).margins, 12 * margins)


@pytest.mark.parametrize("scale", [1.0, 30.0, 64.0])
@pytest.mark.parametrize("margin", [0.3, 0.5])
def test_the_margin_lowers_only_the_logit_of_the_label_and_is_scaled(scale, margin):
    """The logits reach ±64 and the scaled margin 32, where p rounds to 0 or 1 in float32."""
    logits = scale * COSINES
    costs = make(ldam_margin=margin, classifier_scale=scale)(logits)
    expected = oracle.ldam(logits.double().numpy(), COUNTS.double().numpy(), margin, scale)
    torch.testing.assert_close(costs.double(), torch.from_numpy(expected), rtol=2e-6, atol=1e-12)


def test_margins_are_not_scaled_for_a_linear_classifier():
    logits = 3 * COSINES
    costs = make(classifier="linear")(logits)
    expected = oracle.ldam(logits.double().numpy(), COUNTS.double().numpy(), 0.5, 1.0)
    torch.testing.assert_close(costs.double(), torch.from_numpy(expected), rtol=2e-6, atol=1e-9)


def test_no_margin_is_cross_entropy_of_the_scaled_cosines():
    logits = 30 * COSINES
    torch.testing.assert_close(make(ldam_margin=0.0)(logits), -logits.log_softmax(dim=1))


def test_gradients_equal_finite_differences_for_a_predicted_label():
    logits = (30 * COSINES).double().requires_grad_()
    assert torch.autograd.gradcheck(make(), logits)
