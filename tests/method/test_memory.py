"""The memory classifier and the centroid loss against NumPy in float64, sample by sample."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fasticcl.method.memory import MemoryClassifier, centroid_loss, nearest
from tests.support.classifier_oracle import classifier_logits

BATCH, SIZE, CLASSES = 6, 8, 5
Y = np.array([0, 3, 3, 1, 3, 0])  # the classes 2 and 4 have no samples


def draw(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape)


def make_classifier():
    torch.manual_seed(0)
    classifier = MemoryClassifier(SIZE, CLASSES)
    with torch.no_grad():
        for value in classifier.parameters():
            value.normal_()
    return classifier


def tensor(values):
    return torch.tensor(values, dtype=torch.float32, requires_grad=True)


def slopes(function, values, step=1e-6):
    """Return the gradient of a function of an array by central differences."""
    result = np.empty_like(values)
    for index in np.ndindex(*values.shape):
        above, below = values.copy(), values.copy()
        above[index] += step
        below[index] -= step
        result[index] = (function(above) - function(below)) / (2 * step)
    return result


@pytest.mark.parametrize("scale", [0.01, 1, 30])
def test_logits_are_those_of_the_formula(scale):
    classifier, v = make_classifier(), scale * draw(BATCH, SIZE)
    expected = classifier_logits({n: w.detach() for n, w in classifier.state_dict().items()}, v)
    np.testing.assert_allclose(classifier(tensor(v)).detach(), expected, rtol=1e-4, atol=1e-4)


def test_the_nearest_centroid_is_that_of_the_smallest_distance():
    v, c = draw(50, SIZE), draw(200, SIZE, seed=2)
    expected = [c[np.linalg.norm(each - c, axis=1).argmin()] for each in v]
    np.testing.assert_allclose(nearest(tensor(v), tensor(c)), expected, rtol=1e-5)


def test_gradient_of_the_logits_is_that_of_the_formula():
    """It includes the distance to the nearest centroid, through which the official code differentiates."""
    classifier, v, upstream = make_classifier(), draw(BATCH, SIZE), draw(BATCH, CLASSES, seed=2)
    state = {name: value.detach() for name, value in classifier.state_dict().items()}
    x = tensor(v)
    (classifier(x) * torch.tensor(upstream)).sum().backward()
    expected = slopes(lambda each: (classifier_logits(state, each) * upstream).sum(), v)
    np.testing.assert_allclose(x.grad, expected, rtol=1e-3, atol=1e-4)


def test_cross_entropy_trains_everything_but_the_centroids():
    classifier = make_classifier()
    F.cross_entropy(classifier(tensor(draw(BATCH, SIZE))), torch.from_numpy(Y)).backward()
    for name, value in classifier.named_parameters():
        assert value.grad is None if name == "centroids" else value.grad.abs().min() > 0, name


def test_features_equal_to_a_centroid_or_zero_have_finite_logits_and_gradients():
    classifier = make_classifier()
    v = tensor(draw(3, SIZE))
    with torch.no_grad():
        classifier.centroids[0].copy_(v[0])
        v[1] = 0
        logits = classifier(v)
        assert logits[0].abs().max() <= 16
    classifier(v).sum().backward()
    assert v.grad.isfinite().all()
    with torch.no_grad():
        classifier.centroids.zero_()
        v[2] = 0
    v.grad = None
    logits = classifier(v)
    logits.sum().backward()
    assert logits[2].eq(0).all()
    assert all(value.isfinite().all() for value in (logits, v.grad, classifier.selector.weight.grad))


def test_logits_are_float32_under_autocast():
    classifier, v = make_classifier(), tensor(draw(BATCH, SIZE))
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(v)
        loss = centroid_loss(v, classifier.centroids, torch.from_numpy(Y), 0.01)
    assert torch.equal(logits, classifier(v))
    assert torch.equal(loss, centroid_loss(v, classifier.centroids, torch.from_numpy(Y), 0.01))


def test_new_weights_have_the_range_of_the_official_code():
    torch.manual_seed(0)
    classifier = MemoryClassifier(64, 200)
    assert not classifier.centroids.any()
    for weight in (classifier.weight, classifier.selector.weight):
        assert 0.124 < weight.abs().max() <= 0.125
        assert weight.abs().mean().item() == pytest.approx(0.0625, rel=0.02)


def terms(v, centroids):
    """Return attraction and repulsion of the centroid loss, with loops."""
    own = sum(((each - centroids[k]) ** 2).sum() for each, k in zip(v, Y, strict=True))
    others = [
        ((each - c) ** 2).sum()
        for each, y in zip(v, Y, strict=True)
        for k, c in enumerate(centroids)
        if k != y
    ]
    return own / 2 / BATCH, max(0, 10 - sum(others) / (BATCH * CLASSES))


@pytest.mark.parametrize(("scale", "repels"), [(0.5, True), (3, False)])
@pytest.mark.parametrize("weight", [0.01, 2, 0])
def test_centroid_loss_and_its_gradients_are_those_of_the_official_code(scale, repels, weight):
    v, c = scale * draw(BATCH, SIZE), scale * draw(CLASSES, SIZE, seed=2)
    features, centroids = tensor(v), tensor(c)
    loss = centroid_loss(features, centroids, torch.from_numpy(Y), weight)
    attraction, repulsion = terms(v, c)
    assert (repulsion > 0) == repels
    assert loss.item() == pytest.approx(weight * (attraction + 0.01 * repulsion), rel=1e-5, abs=1e-6)
    loss.backward()
    expected = weight * slopes(lambda each: terms(each, c)[0] + 0.01 * terms(each, c)[1], v)
    np.testing.assert_allclose(features.grad, expected, rtol=1e-4, atol=1e-6)
    expected = weight * 0.01 * slopes(lambda each: terms(v, each)[1], c)
    for k in range(CLASSES):
        members = v[k == Y]
        expected[k] += (c[k] - members).sum(axis=0) / (1 + len(members)) / BATCH
    np.testing.assert_allclose(centroids.grad, expected, rtol=1e-4, atol=1e-6)
