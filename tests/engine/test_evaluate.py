"""Accuracies overall and per class group, and counting over batches."""

import numpy as np
import pytest
import torch

from fasticcl.config import Engine
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.evaluate import accuracies, balanced_accuracy, count_correct, evaluate
from fasticcl.system.machine import choose_machine

TRAIN = np.array([500, 101, 100, 20, 19, 2])  # many, many, medium, medium, few, few


def test_overall_counts_images_and_a_group_averages_its_classes():
    correct, total = np.array([9, 1, 5, 0, 2, 0]), np.array([10, 4, 5, 5, 4, 4])
    metrics = accuracies(correct, total, TRAIN)
    assert metrics["val/top1"] == pytest.approx(100 * 17 / 32)
    assert metrics["val/many"] == pytest.approx(100 * (0.9 + 0.25) / 2)
    assert metrics["val/medium"] == pytest.approx(100 * (1 + 0) / 2)
    assert metrics["val/few"] == pytest.approx(100 * 0.5 / 2)


def test_classes_without_images_do_not_count_and_an_empty_group_is_none():
    metrics = accuracies(np.array([1, 0, 0, 0, 0, 0]), np.array([2, 0, 3, 1, 0, 0]), TRAIN)
    assert metrics["val/many"] == pytest.approx(50.0)
    assert metrics["val/few"] is None


class PixelClassifier(torch.nn.Module):
    """Network that predicts the value of the pixels of each image."""

    def __init__(self):
        super().__init__()
        self.encoder, self.classifier = self.read, torch.nn.Identity()

    @staticmethod
    def read(images):
        return torch.nn.functional.one_hot(images[:, 0, 0, 0].long(), 6).float()


def answers():
    """True classes, predicted classes, and batches of images whose pixels are the predicted classes."""
    truth, answer = torch.from_numpy(np.random.default_rng(0).integers(0, 6, (2, 101)))
    images = answer.float()[:, None, None, None].expand(-1, 3, 2, 2)
    return truth, answer, [StreamBatch(images[i : i + 8], truth[i : i + 8]) for i in range(0, 101, 8)]


def test_batches_of_any_size_are_counted_per_class():
    truth, answer, batches = answers()
    metrics = evaluate(PixelClassifier(), batches, TRAIN, choose_machine(Engine(device="cpu")))
    hits = (truth == answer).numpy()
    assert metrics["val/top1"] == pytest.approx(100 * hits.mean())
    assert metrics["val/few"] == pytest.approx(50 * sum(hits[truth == k].mean() for k in (4, 5)))


def test_each_of_several_classifiers_is_counted_on_its_own():
    truth, answer, batches = answers()
    machine = choose_machine(Engine(device="cpu"))
    classifiers = [torch.nn.Identity(), lambda features: features.flip(1)]  # the second one predicts 5 - k
    correct, total = count_correct(PixelClassifier.read, classifiers, batches, 6, machine)
    assert total.tolist() == [int((truth == k).sum()) for k in range(6)]
    for counts, predicted in zip(correct, (answer, 5 - answer), strict=True):
        assert counts.tolist() == [int(((truth == k) & (predicted == k)).sum()) for k in range(6)]


def test_balanced_accuracy_is_the_mean_over_classes_with_images():
    assert balanced_accuracy(np.array([9, 0, 1, 0]), np.array([10, 1, 2, 0])) == pytest.approx(100 * 1.4 / 3)
    assert balanced_accuracy(np.array([0, 0]), np.array([0, 0])) is None
