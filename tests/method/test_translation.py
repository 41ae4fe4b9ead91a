"""Major-to-minor translation against loops over images in float64, and the draws of a batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.config import Method
from fasticcl.longtail import exponential_counts
from fasticcl.method.translation import (
    draw_noise,
    draw_replacements,
    translate,
    translation_cost,
)

SHAPE, CLASSES = (3, 2, 2), 4


class Net:
    """A network with one hidden layer and the gradient of a logit or of the cross-entropy, in NumPy."""

    def __init__(self, seed):
        rng = np.random.default_rng(seed)
        self.w, self.v = rng.normal(size=(5, 12)), 2 * rng.normal(size=(CLASSES, 5))

    def logits(self, x):
        return self.v @ np.tanh(self.w @ x)

    def probabilities(self, x):
        e = np.exp(self.logits(x))
        return e / e.sum()

    def gradient(self, x, output_gradient):
        return self.w.T @ ((1 - np.tanh(self.w @ x) ** 2) * (self.v.T @ output_gradient))

    def __call__(self, pixels):
        w, v = torch.from_numpy(self.w), torch.from_numpy(self.v)
        return torch.tanh(pixels.flatten(1) @ w.T) @ v.T


def translated_by_loop(x, source, target, g, f, method):
    """Return an image translated step by step, and the probability of the target."""
    x = x.reshape(-1)
    for _ in range(method.m2m_steps):
        gradient = g.gradient(x, g.probabilities(x) - np.eye(CLASSES)[target])
        gradient = gradient + method.m2m_lambda * f.gradient(x, np.eye(CLASSES)[source])
        x = np.clip(x - method.m2m_step_size * gradient / np.sqrt((gradient**2).sum()), 0, 1)
    return x.reshape(SHAPE), g.probabilities(x)[target]


def images(seed=0, size=6):
    """Return pixels, source classes and target classes. Some pixels are at the borders of [0, 1]."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.uniform(-0.2, 1.2, (size, *SHAPE)), 0, 1)
    source = rng.integers(0, CLASSES, size)
    return pixels, source, (source + rng.integers(1, CLASSES, size)) % CLASSES


def run(pixels, source, target, method, g, f):
    tensors = map(torch.from_numpy, (pixels, source, target))
    return translate(*tensors, g, f, method)


@pytest.mark.parametrize(("lam", "step", "steps"), [(0.5, 0.1, 10), (0.0, 0.3, 1), (2.0, 0.05, 3)])
def test_images_follow_the_normalised_gradient_of_both_networks(lam, step, steps):
    method = Method(m2m_lambda=lam, m2m_step_size=step, m2m_steps=steps, m2m_confidence=0.4)
    pixels, source, target = images()
    g, f = Net(1), Net(2)
    result, confident = run(pixels, source, target, method, g, f)
    expected = [translated_by_loop(*each, g, f, method) for each in zip(pixels, source, target, strict=True)]
    assert np.allclose(result.numpy(), [x for x, _ in expected], rtol=0, atol=1e-12)
    assert confident.tolist() == [p >= 0.4 for _, p in expected]
    assert 0 < confident.sum() < len(pixels)
    assert not result.requires_grad


@pytest.mark.parametrize(("confidence", "expected"), [(0.5, True), (0.501, False)])
def test_an_image_is_accepted_at_the_confidence_itself(confidence, expected):
    pixels, *_ = images(size=1)
    g = lambda x: x.flatten(1)[:, :2] * 0  # noqa: E731  two equal logits, gradient 0
    labels = np.array([0]), np.array([1])
    result, confident = run(pixels, *labels, Method(m2m_confidence=confidence, m2m_lambda=0), g, g)
    assert confident.tolist() == [expected]
    assert np.array_equal(result.numpy(), pixels)


@pytest.mark.parametrize(
    ("classes", "largest", "ratio", "share"),
    [
        (100, 500, 100, 0.783),
        (100, 500, 50, 0.748),
        (100, 500, 10, 0.609),
        (10, 5000, 100, 0.752),
        (10, 5000, 50, 0.720),
        (10, 5000, 10, 0.591),
    ],
)
def test_share_of_chosen_images_in_balanced_batches_of_long_tailed_cifar(classes, largest, ratio, share):
    counts = exponential_counts(largest, classes, ratio)
    cost = translation_cost(counts, np.full(classes, 1 / classes), Method(m2m_beta=0))
    assert cost.chosen == pytest.approx(share, abs=6e-4)


COUNTS = np.array([20, 50, 8, 20, 1])


def test_cost_is_the_expectation_over_targets_and_sources():
    drawn, beta = np.array([0.1, 0.3, 0.2, 0.15, 0.25]), 0.9
    translated = 0.0
    for k, n in enumerate(COUNTS):
        weights = np.array([p * (1 - beta ** max(m - n, 0)) for p, m in zip(drawn, COUNTS, strict=True)])
        accept = np.array([1 - beta ** max(m - n, 0) for m in COUNTS])
        if weights.sum():
            translated += drawn[k] * (1 - n / 50) * (weights / weights.sum() * accept).sum()
    cost = translation_cost(COUNTS, drawn, Method(m2m_beta=beta, m2m_steps=4))
    assert cost.translated == pytest.approx(translated)
    assert cost.relative == pytest.approx((3 + translated * (4 * 4 + 1)) / 3)


def test_equal_classes_cost_nothing():
    assert translation_cost(np.array([7, 7]), np.array([0.5, 0.5]), Method()) == (0, 0, 1)


def test_pairs_are_drawn_with_the_probabilities_of_the_paper():
    labels, beta, draws = np.array([0, 1, 3, 4, 2, 3]), 0.95, 6000
    rng, frequency = np.random.default_rng(0), np.zeros((6, 6))
    for _ in range(draws):
        drawn = draw_replacements(labels, COUNTS, beta, rng)
        frequency[drawn.slots, drawn.sources] += 1 / draws
    expected = np.zeros((6, 6))
    for i, k in enumerate(labels):
        accept = np.array([1 - beta ** max(COUNTS[j] - COUNTS[k], 0) for j in labels])
        if accept.any():
            expected[i] = (1 - COUNTS[k] / 50) * accept / accept.sum() * accept
    deviation = np.sqrt(np.maximum(expected * (1 - expected), 1e-9) / draws)
    assert np.abs(frequency - expected).max() > 0
    assert (np.abs(frequency - expected) <= 4.5 * deviation).all()
    assert frequency[expected == 0].max() == 0


@settings(max_examples=30, deadline=None)
@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=20),
    beta=st.sampled_from([0.0, 0.5, 0.999]),
    seed=st.integers(0, 99),
)
def test_only_images_of_smaller_classes_are_replaced_by_larger_ones(labels, beta, seed):
    labels = np.array(labels)
    rng = np.random.default_rng(seed)
    slots, sources = draw_replacements(labels, COUNTS, beta, rng)
    assert (COUNTS[labels[sources]] > COUNTS[labels[slots]]).all()
    assert [*slots] == sorted(set(slots))
    after = np.random.default_rng(seed)
    after.random(3 * len(labels))  # the number of draws depends on the size of the batch only
    assert rng.random() == after.random()


@pytest.mark.parametrize("size", [0, 1, 5])
def test_noise_has_its_norm_and_a_random_direction(size):
    noise = draw_noise((size, 3, 8, 8), 0.5, np.random.default_rng(0))
    assert noise.dtype == np.float32
    assert noise.shape == (size, 3, 8, 8)
    assert np.sqrt((noise.astype(float) ** 2).sum(axis=(1, 2, 3))) == pytest.approx(np.full(size, 0.5))
    directions = noise.reshape(size, 192)
    assert (np.abs(directions @ directions.T - 0.25 * np.eye(size)) < 0.08).all()


def test_noise_can_be_disabled():
    assert not draw_noise((2, 3, 4, 4), 0.0, np.random.default_rng(0)).any()


@settings(max_examples=20, deadline=None)
@given(step=st.floats(0.01, 5), steps=st.integers(1, 4), seed=st.integers(0, 99))
def test_translated_images_stay_images(step, steps, seed):
    pixels, source, target = images(seed)
    method = Method(m2m_step_size=step, m2m_steps=steps)
    result, _ = run(pixels, source, target, method, Net(seed), Net(seed + 1))
    assert 0 <= result.min() <= result.max() <= 1
    assert result.numpy() == pytest.approx(pixels, abs=step * steps)
