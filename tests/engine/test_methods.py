"""Every method preset trains, resumes, evaluates, exports and predicts through the same functions."""

import os
import signal
from functools import cache, partial
from itertools import combinations

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import fasticcl
from fasticcl.data.evaluation_loader import evaluation_batches
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
    train_method,
)
from tests.support.trained_runs import softmax

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


LOSSES = {
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


@every_method
def test_every_method_stopped_in_every_phase_resumes_bit_identically(
    finished, tiny_shards, tmp_path, monkeypatch, method
):
    """SIGTERM in the first epoch, a crash in the second, and SIGTERM in the second stage.

    After the crash, training continues from a checkpoint within the second epoch, in which deferred parts
    have begun.
    """
    expected = finished(method).run
    crash, stops = 2 * TINY_STEPS, {2: signal.SIGTERM, 2 * TINY_STEPS + 3: signal.SIGTERM}

    def stop(count):
        if count == crash:
            raise PowerCut
        if count in stops:
            os.kill(os.getpid(), stops[count])

    steps = record_steps(monkeypatch, stop)
    begin, report, interruptions = partial(train_method, tiny_shards, tmp_path, method), None, 0
    while report is None:
        try:
            report = begin()
        except (PowerCut, Stopped):
            interruptions += 1
        begin = partial(resume, tmp_path, method)
    trained = len(steps) > 2 * TINY_STEPS + 1
    assert interruptions == 2 + trained
    assert differences(report.run, expected) == []
