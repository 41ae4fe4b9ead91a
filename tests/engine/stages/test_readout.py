"""Runs with a readout: their results, records, stops, ranks, exports and reports."""

import os
import signal
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.engine.evaluate import METRICS
from fasticcl.engine.loop import Loop
from fasticcl.engine.run import checkpoint
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.errors import Stopped, TrainingFailed, UserError
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from tests.support.processes import call_main, on_ranks
from tests.support.small_runs import (
    FILES,
    TINY_COUNTS,
    ConsoleOutput,
    PowerCut,
    differences,
    metrics,
    resume,
    train_tiny,
    wait_for_writes,
)

NCM = {"method": "ncm"}


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    """A run that ends with the nearest class mean and has a holdout. No test modifies it."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("ncm"), {"data.holdout": 0.3}, **NCM).run


def nearest_mean_accuracy(run, shards):
    """The accuracy of the nearest class mean, from the encoder of a run, in NumPy."""
    config = resolve(file=run / "config.toml")
    network = Network.restore("resnet8", torch.load(run / "last.pt", weights_only=True)["teacher"]).eval()

    def features(split, rows=None):
        batches = evaluation_batches(Shards(shards, split), config.data, batch_size=7, rows=rows)
        with torch.no_grad():
            pairs = [(network.encoder(batch.x), batch.y.clone()) for batch in batches]
        return [torch.cat(each).double().numpy() for each in zip(*pairs, strict=True)]

    holdout = draw_holdout_rows(np.array(TINY_COUNTS), 0.3, seed=0)
    train, y = features("train", np.setdiff1d(np.arange(sum(TINY_COUNTS)), holdout))
    assert len(y) == 60 - 18
    mean = train.mean(axis=0)
    train = (train - mean) / np.linalg.norm(train - mean, axis=1, keepdims=True)
    centres = np.array([train[y == label].mean(axis=0) for label in range(10)])
    test, labels = features("test")
    test = (test - mean) / np.linalg.norm(test - mean, axis=1, keepdims=True)
    nearest = np.linalg.norm(test[:, None] - centres[None], axis=2).argmin(axis=1)
    return centres, mean, 100 * float((nearest == labels).mean())


def test_ncm_of_a_run_equals_class_means_in_numpy(run, tiny_shards):
    centres, mean, accuracy = nearest_mean_accuracy(run, tiny_shards)
    weights = load_file(run / "model.safetensors")
    np.testing.assert_allclose(weights["classifier.weight"], centres, atol=1e-5)
    np.testing.assert_allclose(weights["classifier.mean"], mean, rtol=1e-4, atol=1e-6)
    report = fasticcl.evaluate(run)
    assert report.rows["after"]["val/top1"] == pytest.approx(accuracy)
    assert report.rows["before"] != report.rows["after"]


def test_the_record_has_accuracies_and_no_losses(run):
    assert {path.name for path in run.iterdir()} == FILES - {"centroids.npy"}
    readout = metrics(run)[-1]
    fixed = {"stage": "rebalancing", "phase": "readout", "epoch": 1, "step": 0, "optim/lr": 0.0}
    assert {key: readout[key] for key in fixed} == fixed
    assert readout.keys() - fixed.keys() == {"data/bad_samples", *METRICS}
    assert (run / "results.csv").read_text().splitlines()[-1].startswith("rebalancing,1,readout,0.0,,")


def test_a_readout_cut_off_at_any_write_resumes_bit_identically(tiny_shards, tmp_path, monkeypatch):
    whole = train_tiny(tiny_shards, tmp_path, name="whole", epochs=1, **NCM).run
    begin_epoch, finish_epoch = ReadoutStage.begin_epoch, Loop._finish_epoch

    def cut_before(*_):
        raise PowerCut

    def cut_after(self, epoch):
        begin_epoch(self, epoch)
        raise PowerCut

    def cut_at_end(self, stage, epoch, stats):
        finish_epoch(self, stage, epoch, stats)
        wait_for_writes(self.run)
        if stage.name == "rebalancing":
            raise PowerCut

    train = partial(train_tiny, tiny_shards, tmp_path, epochs=1, **NCM)
    cuts = [(ReadoutStage, "begin_epoch", cut_before), (ReadoutStage, "begin_epoch", cut_after)]
    for owner, attribute, cut in [*cuts, (Loop, "_finish_epoch", cut_at_end)]:
        with monkeypatch.context() as patch:
            patch.setattr(owner, attribute, cut)
            with pytest.raises(PowerCut):
                train()
        train = partial(resume, tmp_path)
    assert not differences(train().run, whole)


def test_a_signal_during_a_readout_stops_before_the_evaluation(tiny_shards, tmp_path, monkeypatch):
    options = {"method": "logit-adjustment-post-hoc", "epochs": 1}
    whole = train_tiny(tiny_shards, tmp_path, name="whole", **options).run
    begin_epoch = ReadoutStage.begin_epoch

    def interrupted(self, epoch):
        begin_epoch(self, epoch)
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(ReadoutStage, "begin_epoch", interrupted)
        with pytest.raises(Stopped):
            train_tiny(tiny_shards, tmp_path, **options)
    stored = checkpoint.Checkpoint.load(tmp_path / "demo/run/last.pt")
    assert (stored.stage, stored.epoch, stored.step) == ("rebalancing", 0, 0)
    output = ConsoleOutput()
    assert not differences(resume(tmp_path, console=output.console).run, whole)
    lines = output.file.getvalue().splitlines()
    assert "resumed  before the readout log_prior" in lines
    (line,) = [line for line in lines if line.startswith("readout ")]
    assert line.startswith("readout       epoch 1/1  top1 ")
    assert line.endswith("  ETA 0:00")
    assert "images/s" not in line


def test_two_ranks_compute_the_classifier_of_one(run, tmp_path):
    words = ["rebalance", run, "--name", "ranks", "--set", "engine.report=false"]
    on_ranks(tmp_path / "log", 2, call_main, *words)
    alone, ranks = (load_file(run.parent / name / "model.safetensors") for name in ("run", "ranks"))
    assert all(torch.equal(alone[name], ranks[name]) for name in alone if name.startswith("encoder."))
    torch.testing.assert_close(ranks["classifier.weight"], alone["classifier.weight"], rtol=0, atol=1e-6)
    assert metrics(run.parent / "ranks")[-1] == metrics(run)[-1]


def test_a_readout_is_repeated_bit_identically(run):
    again = fasticcl.rebalance(run, name="again").run
    assert not differences(again, run)


def test_an_exported_readout_computes_the_logits_of_the_network(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    data = resolve(file=run / "config.toml").data
    images = (pixels / 255 - np.array(data.mean)) / np.array(data.std)
    network = Network.restore("resnet8", load_file(run / "model.safetensors")).eval()
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2)).float()).logits
    file = fasticcl.export(run, format="pt2", output=tmp_path / "model.pt2").file
    logits, _ = torch.export.load(file).module()(torch.from_numpy(pixels))
    torch.testing.assert_close(logits, expected)


def test_an_unsupported_readout_is_refused_before_training(tiny_shards, tmp_path):
    for settings, sentence in [
        ({"rebalance.readout": "tau_norm", "method.classifier": "cosine"}, "requires a linear classifier"),
        ({"rebalance.readout": "tau-norm"}, "Did you mean tau_norm?"),
    ]:
        with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
            train_tiny(tiny_shards, tmp_path, settings, method="ce")
    assert not (tmp_path / "demo").exists()


def test_weights_that_are_not_finite_name_tau(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, {"rebalance.epochs": 0}, method="ce", epochs=1).run
    with pytest.raises(TrainingFailed, match=r"readout are not finite\. .*--set rebalance\.tau=1"):
        fasticcl.rebalance(run, method="tau-norm", set={"rebalance.tau": 1e4})


def test_a_short_test_run_ends_with_a_readout(tiny_shards, tmp_path):
    report = train_tiny(tiny_shards, tmp_path, {"rebalance.readout": "ncm"}, fast_dev_run=True)
    assert report.rows.keys() == {"before", "after"}
    assert metrics(report.run)[-1]["phase"] == "readout"
