"""Class weights from the effective number of samples, and their weighted means."""

import numpy as np
import pytest
import torch

from fasticcl.config import Method
from fasticcl.longtail import exponential_counts
from fasticcl.method.class_weights import ClassWeights, effective_number_weights
from fasticcl.system.ranks import Ranks
from tests.support import class_loss_oracle as oracle

PROFILES = {
    "C100-100": (500, 100, 100),
    "C100-50": (500, 100, 50),
    "C100-10": (500, 100, 10),
    "C10-100": (5000, 10, 100),
    "C10-50": (5000, 10, 50),
    "C10-10": (5000, 10, 10),
}
PUBLISHED = {  # of the first and the last class
    0.9999: {
        "C100-100": (0.0449, 4.3783),
        "C100-50": (0.0789, 3.8494),
        "C100-10": (0.2582, 2.5247),
        "C10-100": (0.0506, 3.9927),
        "C10-50": (0.0890, 3.5206),
        "C10-10": (0.2923, 2.3585),
    },
    0.999: {
        "C100-100": (0.0551, 4.3445),
        "C100-50": (0.0961, 3.7994),
        "C100-10": (0.3023, 2.4387),
        "C10-100": (0.1812, 3.6883),
        "C10-50": (0.2959, 3.0870),
        "C10-10": (0.6874, 1.7346),
    },
    0.9: {
        "C100-100": (0.8202, 2.0029),
        "C100-50": (0.9326, 1.4318),
        "C100-10": (0.9996, 1.0048),
        "C10-100": (0.9995, 1.0046),
        "C10-50": (1, 1),
        "C10-10": (1, 1),
    },
}
COUNTS = torch.tensor([40.0, 9, 2])


@pytest.mark.parametrize("beta", PUBLISHED)
@pytest.mark.parametrize("profile", PROFILES)
def test_weights_of_cifar_lt_are_those_of_the_definition(profile, beta):
    counts = exponential_counts(*PROFILES[profile])
    weights = effective_number_weights(torch.from_numpy(counts), beta)
    assert (weights[0].item(), weights[-1].item()) == pytest.approx(PUBLISHED[beta][profile], abs=6e-5)
    np.testing.assert_allclose(weights.numpy(), oracle.class_weights(counts, beta), rtol=1e-6)
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-6)


def test_beta_0_gives_ones_and_beta_near_1_the_inverse_counts():
    assert torch.equal(effective_number_weights(COUNTS, 0.0), torch.ones(3))
    inverse = 1 / COUNTS
    near = effective_number_weights(COUNTS, 1 - 1e-9)
    torch.testing.assert_close(near, 3 * inverse / inverse.sum(), rtol=1e-5, atol=0)


def make(norm, ranks=None):
    settings = Method(class_weight_beta=0.9, class_weight_norm=norm)
    return ClassWeights(COUNTS, settings, ranks or Ranks())


def test_weights_are_switched_in_place():
    """A captured CUDA graph reads the tensor at its address."""
    weights = make("weights")
    address = weights.value.data_ptr()
    assert torch.equal(weights.value, torch.ones(3))
    weights.enable()
    assert torch.equal(weights.value, effective_number_weights(COUNTS, 0.9))
    weights.enable(False)
    assert torch.equal(weights.value, torch.ones(3))
    assert weights.value.data_ptr() == address


class OtherRank(Ranks):
    """A rank whose partner has a known sum of weights."""

    def __init__(self, sums):
        super().__init__()
        self.world_size, self.sums = 2, iter(sums)

    def all_reduce(self, tensor):
        assert not tensor.requires_grad
        return tensor + next(self.sums)


@pytest.mark.parametrize("norm", ["weights", "batch"])
def test_the_mean_loss_and_gradient_of_two_ranks_equal_those_of_one(norm):
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(8, 3, generator=generator, requires_grad=True)
    y_h, y_t = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2]), torch.tensor([2, 1, 0, 0, 2, 2, 2, 0])
    lam = torch.rand(8, generator=generator)
    whole = make(norm)
    whole.enable()
    expected = whole.mean(costs, (lam, y_h), (1 - lam, y_t))
    w = whole.value
    sums = [(lam * w[y_h] + (1 - lam) * w[y_t])[part].sum() for part in (slice(4, 8), slice(0, 4))]
    losses = []
    for part, other in zip((slice(0, 4), slice(4, 8)), sums, strict=True):
        weights = make(norm, OtherRank([other]))
        weights.enable()
        losses.append(weights.mean(costs[part], (lam[part], y_h[part]), (1 - lam[part], y_t[part])))
    average = torch.stack(losses).mean()  # as DistributedDataParallel averages gradients
    torch.testing.assert_close(average, expected)
    gradients = [torch.autograd.grad(loss, costs)[0] for loss in (average, expected)]
    torch.testing.assert_close(*gradients)
