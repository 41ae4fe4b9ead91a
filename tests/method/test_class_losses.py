"""Classification losses by name, compared with float64 references, with and without class weights."""

import numpy as np
import pytest
import torch

from fasticcl.config import Method
from fasticcl.errors import UserError
from fasticcl.method import losses
from fasticcl.method.class_losses import CLASS_LOSSES, ClassificationLoss
from tests.support import class_loss_oracle as oracle

COUNTS = torch.tensor([100, 10, 1, 5])
SETTINGS = {"classifier": "cosine", "classifier_scale": 8.0, "focal_gamma": 1.5, "logit_adjustment_tau": 0.7}
BETA = 0.99


def make(name, **settings):
    return ClassificationLoss(Method(class_loss=name, **{**SETTINGS, **settings}), COUNTS)


def costs(name, logits):
    """Return the costs [B, K] in float64."""
    z, n = logits.double().numpy(), COUNTS.double().numpy()
    return {
        "cross_entropy": lambda: oracle.cross_entropy(z),
        "balanced_softmax": lambda: oracle.balanced_softmax(z, n),
        "focal": lambda: oracle.focal(z, 1.5),
        "ldam": lambda: oracle.ldam(z, n, margin=0.5, scale=8.0),
        "logit_adjustment": lambda: oracle.logit_adjustment(z, n, 0.7),
        "sigmoid_focal": lambda: oracle.sigmoid_focal(z, 1.5),
    }[name]()


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 4, generator=generator) * 3
    y_h, y_t = torch.randint(0, 4, (2, 7), generator=generator)
    return logits, y_h, y_t, torch.rand(7, generator=generator)


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_loss_is_a_batch_mean_and_is_mixed_as_in_equation_7(name, batch):
    logits, y_h, y_t, lam = batch
    loss, table = make(name), costs(name, logits)
    cost_h, cost_t = (table[np.arange(7), y.numpy()] for y in (y_h, y_t))
    assert loss(logits, y_h).item() == pytest.approx(cost_h.mean(), rel=1e-6)
    weight = lam.double().numpy()
    mixed = weight * cost_h + (1 - weight) * cost_t
    assert loss.interpolative(logits, y_h, y_t, lam).item() == pytest.approx(mixed.mean(), rel=1e-6)
    expected = 0.25 * cost_h + 0.75 * cost_t
    assert loss.interpolative(logits, y_h, y_t, 0.25).item() == pytest.approx(expected.mean(), rel=1e-6)


@pytest.mark.parametrize("norm", ["weights", "batch"])
@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_a_class_weight_multiplies_the_cost_of_its_label(name, norm, batch):
    """Focal loss computes p from the logits alone: a weight does not change the focal factor."""
    logits, y_h, y_t, lam = batch
    loss, table = make(name, class_weight_beta=BETA, class_weight_norm=norm), costs(name, logits)
    loss.use_weights(True)
    w = oracle.class_weights(COUNTS.double().numpy(), BETA)
    (cost_h, w_h), (cost_t, w_t) = ((table[np.arange(7), y], w[y]) for y in (y_h.numpy(), y_t.numpy()))
    size = w_h.sum() if norm == "weights" else 7
    assert loss(logits, y_h).item() == pytest.approx((w_h * cost_h).sum() / size, rel=1e-6)
    for given, share in ((lam, lam.double().numpy()), (0.25, 0.25), (torch.tensor(0.25), 0.25)):
        value = loss.interpolative(logits, y_h, y_t, given).item()
        total = (share * w_h * cost_h + (1 - share) * w_t * cost_t).sum()
        size = (share * w_h + (1 - share) * w_t).sum() if norm == "weights" else 7
        assert value == pytest.approx(total / size, rel=1e-6)


@pytest.mark.parametrize("norm", ["weights", "batch"])
def test_class_weights_have_no_effect_until_they_are_used(norm, batch):
    logits, y_h, y_t, lam = batch
    plain, loss = make("focal"), make("focal", class_weight_beta=BETA, class_weight_norm=norm)
    for enabled in (False, True, False):
        loss.use_weights(enabled)
        equal = [
            loss(logits, y_h).item() == pytest.approx(plain(logits, y_h).item(), rel=1e-6),
            loss.interpolative(logits, y_h, y_t, lam).item()
            == pytest.approx(plain.interpolative(logits, y_h, y_t, lam).item(), rel=1e-6),
        ]
        assert equal == [not enabled] * 2


def test_cross_entropy_equals_equations_6_and_7(batch):
    logits, y_h, y_t, lam = batch
    loss = ClassificationLoss(Method(), COUNTS)
    assert torch.equal(loss(logits, y_h), losses.cross_entropy(logits, y_h))
    expected = losses.interpolative_cross_entropy(logits, y_h, y_t, lam)
    assert torch.equal(loss.interpolative(logits, y_h, y_t, lam), expected)
    assert loss.weights is None
    loss.use_weights(True)
    assert torch.equal(loss(logits, y_h), losses.cross_entropy(logits, y_h))


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_half_precision_logits_are_computed_in_float32(name, batch):
    logits, y_h, *_ = batch
    loss = make(name, class_weight_beta=BETA)
    assert loss(logits.bfloat16(), y_h).dtype == torch.float32
    assert torch.equal(loss(logits.bfloat16(), y_h), loss(logits.bfloat16().float(), y_h))


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_extreme_logits_have_finite_costs_and_gradients(name):
    logits = torch.tensor([[200.0, -100, 3, 0], [1e4, 0, 0, -1e4], [0, 0, 0, 0], [-40, 40, 40, 0]])
    for gamma in (0.0, 0.5, 2.0):
        loss = make(name, focal_gamma=gamma, classifier_scale=30.0)
        given = logits.clone().requires_grad_()
        table = loss.costs(given)
        table.sum().backward()
        assert table.isfinite().all()
        assert given.grad.isfinite().all()


@pytest.mark.parametrize("name", CLASS_LOSSES)
def test_gradients_equal_finite_differences(name):
    logits = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    logits[0, 1] = 30  # the probability of this class is almost 1
    assert torch.autograd.gradcheck(make(name).costs, logits.requires_grad_())


def test_unknown_loss_gives_an_error_with_a_suggestion():
    with pytest.raises(UserError, match=r"no loss 'balanced'. Did you mean balanced_softmax\?"):
        make("balanced")
