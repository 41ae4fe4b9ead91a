"""Every method preset trains, resumes, evaluates, exports and predicts through the same functions."""

import os
import signal
from functools import cache, partial
from itertools import combinations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fasticcl
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.engine.loop import Loop
from fasticcl.engine.run.folder import WEIGHTS, RunFolder
from fasticcl.engine.run.weights import load_model
from fasticcl.errors import Stopped
from fasticcl.method.causal import CausalClassifier
from fasticcl.method.classifiers import ClassAffine, CosineClassifier
from fasticcl.method.memory import MemoryClassifier
from fasticcl.method.nearest_mean import NearestMeanClassifier
from fasticcl.preset_files import preset_names
from fasticcl.report.run_history import read_history
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from tests.support.classifier_oracle import classifier_logits
from tests.support.small_runs import (
    TINY_STEPS,
    PowerCut,
    differences,
    equal,
    metrics,
    record_steps,
    resume,
    same_weights,
    train_method,
)
from tests.support.trained_runs import MEAN, STD, noise_pixels, softmax

METHODS = preset_names("method")
every_method = pytest.mark.parametrize("method", METHODS)


@pytest.fixture(scope="module")
def finished(tiny_shards, tmp_path_factory):
    """A function that returns the report of an uninterrupted run of a method."""
    return cache(partial(train_method, tiny_shards, tmp_path_factory.mktemp("finished")))


@every_method
def test_every_method_finishes_under_its_own_name(finished, method):
    report = finished(method)
    history = read_history(report.run)
    assert history.finished
    assert history.config.method.name == load_model(report.run).description.method == method
    preset = resolve("demo", method=method)
    stages = [*["seed"] * (2 if method == "m2m" else 0), *["representation"] * 2]
    assert [record["stage"] for record in history.epochs][: len(stages)] == stages
    assert [record["epoch"] for record in history.epochs][: len(stages)] == [1, 2] * (len(stages) // 2)
    assert len(history.epochs) == len(stages) + preset.rebalance.enabled
    expected = {"before", "after"} if preset.rebalance.enabled else {"last"}
    assert set(report.rows) == expected | ({"best"} if preset.rebalance.readout == "none" else set())
    assert all(record["train/loss"] > 0 for record in metrics(report.run) if "train/loss" in record)


CLASSIFIERS = {
    "ldam-drw": CosineClassifier,
    "lws": ClassAffine,
    "mislas": ClassAffine,
    "ncm": NearestMeanClassifier,
    "oltr": MemoryClassifier,
    "tde": CausalClassifier,
}


@every_method
def test_every_method_has_its_classifier(finished, method):
    classifier = load_model(finished(method).run).network.classifier
    assert type(classifier) is CLASSIFIERS.get(method, nn.Linear)


def test_every_method_has_a_result_of_its_own(finished):
    """Except that balanced softmax is logit adjustment with τ = 1."""
    results = {method: load_file(finished(method).run / WEIGHTS) for method in METHODS}
    equal_methods = [pair for pair in combinations(METHODS, 2) if equal(*(results[each] for each in pair))]
    assert equal_methods == [("balanced-softmax", "logit-adjustment")]


@every_method
def test_every_method_is_evaluated_with_the_recorded_accuracies(finished, method):
    report = finished(method)
    assert fasticcl.evaluate(report.run) == report


@every_method
def test_every_method_predicts_by_the_formula_of_its_classifier(finished, tiny_shards, method):
    run = finished(method).run
    network = load_model(run).network
    (batch,) = evaluation_batches(Shards(tiny_shards, "test"), RunFolder.open(run).config.data, batch_size=30)
    with torch.no_grad():
        features = network.encoder(batch.x)
    expected = softmax(classifier_logits(network.classifier.state_dict(), features))
    predictions = [*fasticcl.predict(run, tiny_shards / "test", topk=10, device="cpu")]
    for prediction, row in zip(predictions, expected, strict=True):
        probabilities = [row[int(name)] for name in prediction.classes]
        assert prediction.probabilities == pytest.approx(probabilities, abs=1e-5)
        assert probabilities == pytest.approx(sorted(row, reverse=True), abs=1e-5)


def test_a_run_stopped_before_in_and_after_its_mixing_resumes_bit_identically(
    tiny_shards, tmp_path, monkeypatch
):
    epochs = {"method.warmup_epochs": 1, "method.cooldown_epochs": 1}
    train = partial(train_method, tiny_shards, method="cmo", set=epochs, fast_dev_run=False, epochs=4)
    expected = train(tmp_path / "expected").run
    phases = [record["phase"] for record in metrics(expected) if "val/top1" in record]
    assert phases == ["warmup", "interpolative", "interpolative", "warmup"]
    steps = [2, TINY_STEPS, TINY_STEPS + 2, 2 * TINY_STEPS + 1, 3 * TINY_STEPS, 3 * TINY_STEPS + 1]
    stop_at = iter([*steps, None])
    begin, report, upcoming, done = partial(train, tmp_path), None, next(stop_at), []

    def stop(count):
        if count == upcoming:
            os.kill(os.getpid(), signal.SIGTERM)

    taken = record_steps(monkeypatch, stop)
    while report is None:
        try:
            report = begin()
        except Stopped:
            done.append(len(taken))
            upcoming = next(stop_at)
        begin = partial(resume, tmp_path, "cmo")
    assert done == steps
    assert differences(report.run, expected) == []


@pytest.mark.parametrize("method", [name for name in ("oltr", "tde") if name in METHODS])
def test_methods_with_a_classifier_of_their_own_export_its_formula(finished, tmp_path, method):
    run, pixels = finished(method).run, noise_pixels(3)
    file = fasticcl.export(run, format="pt2", output=tmp_path / "model.pt2").file
    logits, _ = torch.export.load(file).module()(torch.from_numpy(pixels))
    network = load_model(run).network
    normalised = (np.float64(pixels) / 255 - MEAN) / STD
    with torch.no_grad():
        features = network.encoder(torch.from_numpy(normalised.transpose(0, 3, 1, 2)).float())
    expected = classifier_logits(network.classifier.state_dict(), features)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert np.ptp(expected, axis=1).min() > 0.1


LOSSES = {
    "cmo": {"train/loss", "train/ce", "train/ce_it"},
    "ce": {"train/loss", "train/ce"},
    "mixup": {"train/loss", "train/ce_it"},
    "bbn": {"train/loss", "train/ce_h", "train/ce_t"},
    "manifold-mixup": {"train/loss", "train/ce_it"},
    "crt": {"train/loss", "train/ce"},
    "oltr": {"train/loss", "train/ce", "train/centroid"},
    "iccl": {"train/loss", "train/ce", "train/cc", "train/ce_it", "train/cc_it"},
}


@pytest.mark.parametrize("method", LOSSES)
def test_methods_log_their_losses(finished, method):
    records = metrics(finished(method).run)
    assert {key for record in records for key in record if key.startswith("train/")} == LOSSES[method]


def test_bbn_trains_on_unmixed_images_that_torch_prepares(finished, tiny_shards, tmp_path):
    """The mode ``captured`` on a CPU."""
    captured = train_method(tiny_shards, tmp_path, "bbn", {"engine.compile": "captured"}).run
    assert metrics(captured) == metrics(finished("bbn").run)
    assert same_weights(captured, finished("bbn").run)


def interrupt_every_epoch(monkeypatch):
    """Interrupt each training epoch once and return the interrupted epochs by stage.

    The first epoch of a stage is stopped by SIGTERM after its second step, and the next one crashes after its
    third step. Then training continues from the checkpoint after the second one.
    """
    interrupted, epochs, take_steps = [], [], Loop._take_steps

    def in_epoch(self, stage, epoch, *rest):
        epochs.append(epoch)
        take_steps(self, stage, epoch, *rest)

    def interrupt(_):
        (stage, step), epoch = steps[-1], epochs[-1]
        if (stage, epoch) in interrupted or step != (1, 2)[epoch % 2]:
            return
        interrupted.append((stage, epoch))
        if epoch % 2:
            raise PowerCut
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "_take_steps", in_epoch)
    steps = record_steps(monkeypatch, interrupt)
    return interrupted


@every_method
def test_every_method_interrupted_in_every_epoch_resumes_bit_identically(
    finished, tiny_shards, tmp_path, monkeypatch, method
):
    """This includes every phase and, with a crash, deferred parts. A readout has no steps."""
    expected = finished(method).run
    interrupted = interrupt_every_epoch(monkeypatch)
    begin, report, interruptions = partial(train_method, tiny_shards, tmp_path, method), None, 0
    while report is None:
        try:
            report = begin()
        except (PowerCut, Stopped):
            interruptions += 1
        begin = partial(resume, tmp_path, method)
    records = [record for record in metrics(expected) if "train/loss" in record]
    trained = [*dict.fromkeys((record["stage"], record["epoch"] - 1) for record in records)]
    assert interrupted == trained
    assert interruptions == len(trained) >= 2
    assert differences(report.run, expected) == []
