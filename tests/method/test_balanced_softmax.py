"""Balanced softmax against its definition in float64."""

import torch

from fasticcl.method.balanced_softmax import costs


def test_costs_are_those_of_a_softmax_weighted_by_class_counts():
    logits, counts = torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0]]), torch.tensor([100.0, 10.0, 1.0])
    weighted = counts.double() * logits.double().exp()
    expected = -(weighted / weighted.sum(dim=1, keepdim=True)).log()
    torch.testing.assert_close(costs(logits, counts), expected.float())


def test_equal_counts_give_cross_entropy():
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(costs(logits, torch.full((3,), 7.0)), -logits.log_softmax(dim=1))
