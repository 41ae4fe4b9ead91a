"""Classification losses by name, compared with float64 references."""

import numpy as np
import pytest
import torch

from fasticcl.errors import UserError
from fasticcl.method import losses
from fasticcl.method.class_losses import CLASS_LOSSES, ClassificationLoss

COUNTS = torch.tensor([100, 10, 1, 5])


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator) * 3
    y_h, y_t = torch.randint(0, 4, (2, 7), generator=generator)
    return logits, y_h, y_t, torch.rand(7, generator=generator)


def oracle(name, logits, y):
    """Return the loss of each sample in float64."""
    values = logits.double().numpy().copy()
    if name == "balanced_softmax":
        values += np.log(COUNTS.double().numpy())
    values -= values.max(axis=1, keepdims=True)
    log_p = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(y)), y.numpy()]


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_loss_is_a_batch_mean_and_is_mixed_as_in_equation_7(name, batch):
    logits, y_h, y_t, lam = batch
    loss = ClassificationLoss(name, COUNTS)
    assert loss(logits, y_h).item() == pytest.approx(oracle(name, logits, y_h).mean(), rel=1e-6)
    weight = lam.double().numpy()
    mixed = weight * oracle(name, logits, y_h) + (1 - weight) * oracle(name, logits, y_t)
    assert loss.interpolative(logits, y_h, y_t, lam).item() == pytest.approx(mixed.mean(), rel=1e-6)
    expected = 0.25 * oracle(name, logits, y_h) + 0.75 * oracle(name, logits, y_t)
    assert loss.interpolative(logits, y_h, y_t, 0.25).item() == pytest.approx(expected.mean(), rel=1e-6)


def test_cross_entropy_equals_equations_6_and_7(batch):
    logits, y_h, y_t, lam = batch
    loss = ClassificationLoss("cross_entropy", COUNTS)
    assert torch.equal(loss(logits, y_h), losses.cross_entropy(logits, y_h))
    expected = losses.interpolative_cross_entropy(logits, y_h, y_t, lam)
    assert torch.equal(loss.interpolative(logits, y_h, y_t, lam), expected)


def test_half_precision_logits_are_computed_in_float32(batch):
    logits, y_h, *_ = batch
    loss = ClassificationLoss("balanced_softmax", COUNTS)
    assert loss(logits.bfloat16(), y_h).dtype == torch.float32


def test_unknown_loss_gives_an_error_with_a_suggestion():
    with pytest.raises(UserError, match=r"no loss 'balanced'. Did you mean balanced_softmax\?"):
        ClassificationLoss("balanced", COUNTS)
