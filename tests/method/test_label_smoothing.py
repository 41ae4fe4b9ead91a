"""Label-aware smoothing, compared with its definition in float64 NumPy and with finite differences."""

import math

import numpy as np
import pytest
import torch

from fasticcl.method.label_smoothing import smoothed_cross_entropy, smoothing_factors
from fasticcl.method.losses import cross_entropy, rebalance
from tests.support import oracle

CIFAR = [500, 477, 250, 40, 5]


def factor(n, smallest, largest, head, tail):
    """ε of a class with n images, from the definition in the paper of MiSLAS."""
    return tail + (head - tail) * math.sin(math.pi * (n - smallest) / (2 * (largest - smallest)))


def smoothed(logits, y, factors):
    """The cross-entropy with smoothed one-hot labels: ε/K for every class and 1 - ε more for the label."""
    terms = []
    for o, label in zip(np.float64(logits), y, strict=True):
        target = np.full(len(o), factors[label] / len(o))
        target[label] += 1 - factors[label]
        terms.append(-sum(target * (o - np.log(np.exp(o).sum()))))
    return np.mean(terms)


def logits_and_classes(dtype=torch.float32):
    draw = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(9, len(CIFAR), generator=draw, dtype=torch.float64)
    return logits.to(dtype), torch.arange(9) % len(CIFAR)


@pytest.mark.parametrize(("head", "tail"), [(0.4, 0.1), (0.3, 0.0), (0.0, 0.2)])
def test_factors_follow_a_sine_of_the_class_size(head, tail):
    factors = smoothing_factors(torch.tensor(CIFAR), head, tail)
    assert factors.tolist() == pytest.approx([factor(n, 5, 500, head, tail) for n in CIFAR], abs=1e-6)
    assert factors[[0, -1]].tolist() == pytest.approx([head, tail])


def test_factors_of_mislas_on_cifar_100():
    """n_k = 500·0.01^(k/99), rounded down, with ε_h = 0.4 and ε_t = 0.1."""
    counts = [int(500 * 0.01 ** (k / 99)) for k in range(100)]
    factors = smoothing_factors(torch.tensor(counts), 0.4, 0.1)
    assert counts[50] == 48
    assert factors[[0, 50, 99]].tolist() == pytest.approx([0.4, 0.140809, 0.1], abs=1e-6)


def test_equal_classes_have_the_factor_of_the_head():
    assert smoothing_factors(torch.full((3,), 7), 0.4, 0.1).tolist() == pytest.approx([0.4] * 3)


def test_the_loss_is_cross_entropy_with_smoothed_labels():
    logits, y = logits_and_classes()
    factors = smoothing_factors(torch.tensor(CIFAR), 0.4, 0.1)
    expected = smoothed(logits.numpy(), y.tolist(), [factor(n, 5, 500, 0.4, 0.1) for n in CIFAR])
    assert smoothed_cross_entropy(logits, y, factors).item() == pytest.approx(expected, rel=1e-6)
    assert smoothed_cross_entropy(logits, y, torch.zeros(5)).item() == pytest.approx(
        cross_entropy(logits, y).item(), rel=1e-7
    )


def test_the_gradient_equals_finite_differences():
    logits, y = logits_and_classes()
    factors = [factor(n, 5, 500, 0.4, 0.1) for n in CIFAR]
    logits.requires_grad_()
    smoothed_cross_entropy(logits, y, torch.tensor(factors)).backward()
    values, h = np.float64(logits.detach()), 1e-5
    for row, column in np.ndindex(*values.shape):
        step = np.zeros_like(values)
        step[row, column] = h
        above, below = (smoothed(values + sign * step, y.tolist(), factors) for sign in (1, -1))
        assert logits.grad[row, column].item() == pytest.approx((above - below) / (2 * h), abs=1e-6)


def test_it_replaces_the_cross_entropy_of_equation_9():
    student, y = logits_and_classes()
    teacher, factors = student.flip(0), torch.tensor([0.4, 0.3, 0.2, 0.1, 0.1])
    kl = oracle.rebalance(student.numpy(), teacher.numpy(), y.numpy(), 1, 4)
    expected = 0.7 * smoothed(student.numpy(), y.tolist(), factors.tolist()) + 0.3 * kl
    assert rebalance(student, teacher, y, 0.3, 4, factors).item() == pytest.approx(expected, rel=1e-6)
