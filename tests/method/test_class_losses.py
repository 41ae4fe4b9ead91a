import numpy as np
import pytest
import torch

from fasticcl.errors import UserError
from fasticcl.method import losses
from fasticcl.method.class_losses import CLASS_LOSSES, ClassificationLoss

COUNTS = torch.tensor([100, 10, 1, 5])


@pytest.fixture
def batch():
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=draw) * 3
    y_h, y_t = torch.randint(0, 4, (2, 7), generator=draw)
    return logits, y_h, y_t, torch.rand(7, generator=draw)


def oracle(name, logits, y):
    """One loss per sample, in float64."""
    values = logits.double().numpy().copy()
    if name == "balanced_softmax":
        values += np.log(COUNTS.double().numpy())
    values -= values.max(axis=1, keepdims=True)
    log_p = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return -log_p[np.arange(len(y)), y.numpy()]


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_a_loss_is_the_mean_over_the_batch_and_mixes_as_equation_7_does(name, batch):
    logits, y_h, y_t, lam = batch
    loss = ClassificationLoss(name, COUNTS)
    assert loss(logits, y_h).item() == pytest.approx(oracle(name, logits, y_h).mean(), rel=1e-6)
    share = lam.double().numpy()
    mixed = share * oracle(name, logits, y_h) + (1 - share) * oracle(name, logits, y_t)
    assert loss.interpolative(logits, y_h, y_t, lam).item() == pytest.approx(mixed.mean(), rel=1e-6)
    whole = 0.25 * oracle(name, logits, y_h) + 0.75 * oracle(name, logits, y_t)
    assert loss.interpolative(logits, y_h, y_t, 0.25).item() == pytest.approx(whole.mean(), rel=1e-6)


def test_cross_entropy_is_that_of_the_paper_s_equations(batch):
    logits, y_h, y_t, lam = batch
    loss = ClassificationLoss("cross_entropy", COUNTS)
    assert torch.equal(loss(logits, y_h), losses.cross_entropy(logits, y_h))
    wanted = losses.interpolative_cross_entropy(logits, y_h, y_t, lam)
    assert torch.equal(loss.interpolative(logits, y_h, y_t, lam), wanted)


def test_half_precision_logits_are_computed_in_float32(batch):
    logits, y_h, *_ = batch
    loss = ClassificationLoss("balanced_softmax", COUNTS)
    assert loss(logits.bfloat16(), y_h).dtype == torch.float32


def test_an_unknown_loss_is_one_sentence():
    with pytest.raises(UserError, match=r"no loss 'balanced'. Did you mean balanced_softmax\?"):
        ClassificationLoss("balanced", COUNTS)
