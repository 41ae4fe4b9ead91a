"""Nearest class mean, compared with NumPy in float64."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
import torch

from fasticcl.method.classifiers import restore_classifier
from fasticcl.method.nearest_mean import NearestMeanClassifier, nearest_mean

LABELS = np.array([0, 0, 0, 1, 1, 2, 0, 1, 3, 0])
RNG = np.random.default_rng(0)
FEATURES = (RNG.normal(size=(10, 6)) + 3).astype(np.float32)
NEW = (RNG.normal(size=(50, 6)) + 3).astype(np.float32)


def cl2n(features, mean):
    centred = features.astype(np.float64) - mean
    return centred / np.linalg.norm(centred, axis=1, keepdims=True)


def batches(size=3):
    pairs = zip(torch.from_numpy(FEATURES).split(size), torch.from_numpy(LABELS).split(size), strict=True)
    return [*pairs]


def test_weights_are_class_averages_of_centred_unit_vectors():
    mean = FEATURES.astype(np.float64).mean(axis=0)
    vectors = cl2n(FEATURES, mean)
    classifier = nearest_mean(batches(), 6, 4)
    expected = [vectors[label == LABELS].mean(axis=0) for label in range(4)]
    np.testing.assert_allclose(classifier.weight.detach(), expected, atol=1e-6)
    np.testing.assert_allclose(classifier.mean, mean, rtol=1e-6)
    norms = np.linalg.norm(expected, axis=1)
    assert norms[:2].max() < 0.95  # the averages are not normalised again
    assert norms[2:] == pytest.approx(1)  # classes of one image


def test_logits_rank_the_classes_by_euclidean_distance():
    classifier = nearest_mean(batches(), 6, 4)
    centres = classifier.weight.detach().double().numpy()
    queries = cl2n(NEW, classifier.mean.double().numpy())
    distances = np.linalg.norm(queries[:, None] - centres[None], axis=2)
    logits = classifier(torch.from_numpy(NEW)).detach()
    # ‖f̂ - c‖² = 1 - 2·logit, because f̂ has norm 1
    np.testing.assert_allclose(1 - 2 * logits, distances**2, atol=1e-5)
    assert np.array_equal(logits.argmax(dim=1), distances.argmin(axis=1))
    assert len(set(distances.argmin(axis=1))) == 4
    cosines = (queries @ centres.T / np.linalg.norm(centres, axis=1)).argmax(axis=1)
    assert not np.array_equal(cosines, distances.argmin(axis=1))  # the norms of the means matter


def test_two_ranks_have_the_means_of_one():
    alone, barrier, tensors = nearest_mean(batches(), 6, 4), Barrier(2, timeout=10), {}

    def rank(number, features):
        def all_reduce(tensor):
            tensors[number] = tensor
            barrier.wait()
            total = tensors[0] + tensors[1]
            barrier.wait()
            return total

        return nearest_mean(features, 6, 4, all_reduce)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(rank, range(2), [batches()[:1], batches()[1:]])
    for name, value in alone.state_dict().items():
        assert torch.equal(first.state_dict()[name], second.state_dict()[name])
        torch.testing.assert_close(first.state_dict()[name], value)


def test_zero_vectors_and_empty_classes_give_finite_logits():
    features = torch.tensor([[1.0, 2.0], [1.0, 2.0]])  # equal to their mean
    classifier = nearest_mean([(features, torch.tensor([0, 0]))], 2, 3)
    assert torch.equal(classifier.weight, torch.zeros(3, 2))
    assert classifier(torch.tensor([[1.0, 2.0], [0.0, 5.0]])).isfinite().all()
    assert nearest_mean([], 2, 3).weight.isfinite().all()


def test_the_state_dict_restores_the_classifier():
    classifier = nearest_mean(batches(), 6, 4)
    restored = restore_classifier(classifier.state_dict())
    assert isinstance(restored, NearestMeanClassifier)
    assert torch.equal(restored(torch.from_numpy(NEW)), classifier(torch.from_numpy(NEW)))


def test_logits_are_float32_under_autocast():
    classifier = nearest_mean(batches(), 6, 4)
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier(torch.from_numpy(NEW))
    assert torch.equal(logits, classifier(torch.from_numpy(NEW)))
