"""Accuracies overall and per class group, and counting over batches."""

import numpy as np
import pytest
import torch

from fasticcl.config import Engine
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.evaluate import accuracies, balanced_accuracy, count_correct, evaluate
from fasticcl.system.machine import Machine, choose_machine

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


class Recorder(torch.nn.Module):
    """Encoder with one convolution, which records its inputs and the precision of its forward passes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 6, 2)
        self.seen = []

    def forward(self, images):
        features = self.conv(images).flatten(1)
        self.seen.append((len(images), features.dtype, torch.backends.cudnn.conv.fp32_precision))
        return features


class Classifier(torch.nn.Identity):
    def forward(self, features):
        self.features = features
        assert not torch.is_autocast_enabled("cpu")
        return features


def random_batches(*sizes):
    generator = torch.Generator().manual_seed(1)
    drawn = [(torch.randn(size, 2, 2, 3, generator=generator), torch.arange(size) % 6) for size in sizes]
    return [StreamBatch(x.permute(0, 3, 1, 2), y) for x, y in drawn]


def simulated_gpu(monkeypatch, **settings):
    """Return a machine that evaluates as on a GPU, but with tensors on the CPU."""
    monkeypatch.setattr(Machine, "gpu", 0)
    return Machine(torch.device("cpu"), **settings)


@pytest.mark.parametrize(
    ("gpu", "bfloat16", "dtype", "convolutions"),
    [
        (False, False, torch.float32, "tf32"),  # a CPU has no TF32
        (False, True, torch.float32, "tf32"),
        (True, True, torch.bfloat16, "tf32"),
        (True, False, torch.float32, "ieee"),
    ],
)
def test_encoder_has_the_precision_of_training_only_on_a_gpu(monkeypatch, gpu, bfloat16, dtype, convolutions):
    settings = {"bfloat16": bfloat16, "mode": "off"}
    machine = simulated_gpu(monkeypatch, **settings) if gpu else Machine(torch.device("cpu"), **settings)
    encoder, classifier = Recorder(), Classifier()
    count_correct(encoder, [classifier], random_batches(4), 6, machine)
    assert encoder.seen == [(4, dtype, convolutions)]
    assert classifier.features.dtype == torch.float32


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """The sizes of the batches for which code was compiled, without the slow code generation."""
    sizes, compile = [], torch.compile

    def backend(graph, inputs):
        sizes.append(next(len(value) for value in inputs if not value.requires_grad))
        return graph.forward

    def compile_in_python(module, *, dynamic, options):
        assert (dynamic, options) == (False, {"emulate_precision_casts": True})
        return compile(module, dynamic=dynamic, backend=backend)

    torch.compiler.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", compile_in_python)
    return sizes


@pytest.mark.parametrize("mode", ["on", "step", "cuda-graphs"])
def test_encoder_is_compiled_once_for_all_batches_and_evaluations(monkeypatch, compiled, mode):
    encoder, batches = (
        torch.nn.Sequential(torch.nn.Conv2d(3, 6, 2), torch.nn.Flatten()),
        random_batches(5, 5, 2),
    )
    encoder.to(memory_format=torch.channels_last)
    eager, machine = (simulated_gpu(monkeypatch, bfloat16=True, mode=used) for used in ("off", mode))
    expected = count_correct(encoder, [torch.nn.Identity()], batches, 6, eager)
    assert compiled == []
    for _ in range(2):
        found = count_correct(encoder, [torch.nn.Identity()], batches, 6, machine)
        assert [counts.tolist() for counts in found] == [counts.tolist() for counts in expected]
    assert compiled == [5]


def test_a_cpu_does_not_compile_evaluations(compiled):
    machine = Machine(torch.device("cpu"), bfloat16=True, mode="on")
    count_correct(Recorder(), [torch.nn.Identity()], random_batches(5), 6, machine)
    assert compiled == []
