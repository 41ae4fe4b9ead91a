"""Gaussians of the classes: their parameters and the accuracy on drawn features."""

import math

import numpy as np
import torch
from torch import nn

from fasticcl.sweep.class_gaussians import ClassGaussians

CPU = torch.device("cpu")


def images(counts, dim, seed=0):
    """Return features [N, dim] with correlated dimensions, and their classes, in random order."""
    rng = np.random.default_rng(seed)
    y = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    x = (
        rng.normal(size=(len(y), dim)) @ rng.normal(size=(dim, dim))
        + 2 * rng.normal(size=(len(counts), dim))[y]
    )
    return torch.from_numpy(x), torch.from_numpy(y)


def batches(x, y, size=7):
    return [*zip(x.split(size), y.split(size), strict=True)]


def pooled_covariance(x, y):
    within = sum(np.cov(x[y == k].T) * ((y == k).sum() - 1) for k in np.unique(y) if (y == k).sum() > 1)
    return within / (len(y) - len(np.unique(y)))


def test_mean_and_pooled_covariance_are_those_of_numpy():
    x, y = images([9, 0, 1, 4], dim=3)  # class 1 has no image
    gaussians = ClassGaussians.fit(batches(x, y), num_classes=4)
    assert gaussians.classes.tolist() == [0, 2, 3]
    assert gaussians.counts.tolist() == [9, 1, 4]
    for mean, k in zip(gaussians.mean.numpy(), (0, 2, 3), strict=True):
        np.testing.assert_allclose(mean, x.numpy()[y.numpy() == k].mean(axis=0), atol=1e-12)
    factor = gaussians.factor.numpy()
    np.testing.assert_allclose(factor @ factor.T, pooled_covariance(x.numpy(), y.numpy()), atol=1e-12)


def test_accuracy_of_a_linear_classifier_is_that_of_the_normal_distribution():
    """For two classes, the difference of the logits is normal with variance (1 + 1/n)·wᵀΣw."""
    x, y = images([30, 2], dim=3, seed=2)
    classifier = nn.Linear(3, 2)
    with torch.no_grad():
        classifier.weight.copy_(torch.tensor([[0.5, -0.2, 0.3], [-0.4, 0.3, 0.1]]))
        classifier.bias.copy_(torch.tensor([0.1, 0.4]))
    w, b = np.array([0.9, -0.5, 0.2]), -0.3
    spread = math.sqrt(w @ pooled_covariance(x.numpy(), y.numpy()) @ w)
    expected = []
    for k, sign in ((0, 1), (1, -1)):
        members = x.numpy()[y.numpy() == k]
        z = sign * (members.mean(axis=0) @ w + b) / (spread * math.sqrt(1 + 1 / len(members)))
        expected.append(50 * (1 + math.erf(z / math.sqrt(2))))
    gaussians = ClassGaussians.fit(batches(x, y), num_classes=2)
    flipped = nn.Linear(3, 2)
    with torch.no_grad():
        flipped.weight.copy_(classifier.weight.flip(0))
        flipped.bias.copy_(classifier.bias.flip(0))
    accuracies = gaussians.accuracies([classifier, flipped], CPU)
    np.testing.assert_allclose(accuracies, [np.mean(expected), 100 - np.mean(expected)], atol=0.8)
    assert accuracies == gaussians.accuracies([classifier, flipped], CPU)


def test_a_memorised_small_class_does_not_count_as_correct():
    """Both images of the small class are classified correctly, but its mean is near that of the large one."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(np.concatenate([rng.normal(0, 1, (200, 1)), [[1.4], [1.5]]]))
    y = torch.tensor([0] * 200 + [1] * 2)
    threshold = nn.Linear(1, 2)
    with torch.no_grad():
        threshold.weight.copy_(torch.tensor([[-1.0], [1.0]]))
        threshold.bias.copy_(torch.tensor([1.3, -1.3]))
    (accuracy,) = ClassGaussians.fit([(x, y)], num_classes=2).accuracies([threshold], CPU)
    seen = np.mean([(x[:200] < 1.3).double().mean().item(), 1]) * 100
    assert seen > 94
    assert accuracy < 78


def test_there_are_no_gaussians_without_a_finite_covariance():
    assert ClassGaussians.fit(batches(*images([1, 1, 1], dim=2)), num_classes=3) is None
    assert ClassGaussians.fit([], num_classes=3) is None
    x, y = images([3, 2], dim=2)
    x[0, 0] = math.nan
    assert ClassGaussians.fit([(x, y)], num_classes=2) is None


def test_features_without_spread_in_a_direction_draw_no_spread():
    """Rounding gives such a covariance eigenvalues slightly below 0. Class 1 has no image."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.normal(size=(20, 2)) @ rng.normal(size=(2, 6)))
    y = torch.tensor([0, 2]).repeat_interleave(10)
    x = torch.cat([x, y[:, None].double()], dim=1)
    gaussians = ClassGaussians.fit([(x, y)], num_classes=3)
    assert gaussians.factor.isfinite().all()
    classifier = nn.Linear(7, 3)  # looks at the last feature alone, which is the class
    with torch.no_grad():
        classifier.weight.zero_()
        classifier.weight[:, 6] = torch.tensor([-1.0, 0, 1])
        classifier.bias.copy_(torch.tensor([1.0, -9, -1]))
    assert gaussians.accuracies([classifier], CPU) == [100.0]
