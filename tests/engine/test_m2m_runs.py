"""Runs of M2m: the seed stage, a seed run, and interruptions in all parts."""

import os
import shutil
import signal
from functools import partial

import pytest

import fasticcl
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.errors import Stopped, UserError
from fasticcl.report.run_history import read_history
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

ACCEPT = {"method.m2m_confidence": 0.05, "method.m2m_beta": 0.3, "method.m2m_steps": 2}


@pytest.fixture(scope="module")
def finished(tiny_shards, tmp_path_factory):
    """An uninterrupted run that trains its seed network."""
    return train_method(tiny_shards, tmp_path_factory.mktemp("finished"), "m2m", ACCEPT)


@pytest.fixture(scope="module")
def seed_run(tiny_shards, tmp_path_factory):
    """A run of cross-entropy."""
    return train_method(tiny_shards, tmp_path_factory.mktemp("seed"), "ce").run


def records(run, stage):
    return [{**record, "stage": ""} for record in metrics(run) if record["stage"] == stage]


def test_the_seed_stage_is_a_run_of_cross_entropy(finished, seed_run):
    assert records(finished.run, "seed") == records(seed_run, "representation")
    network = Checkpoint.load(seed_run / "last.pt").state["network"]
    assert equal(Checkpoint.load(finished.run / "last.pt").state["seed"], network)


def test_the_translation_has_its_own_phase_and_replaces_images(finished):
    history = read_history(finished.run)
    assert [(record["stage"], record["phase"]) for record in history.epochs] == [
        ("seed", "warmup"),
        ("seed", "warmup"),
        ("representation", "warmup"),
        ("representation", "translation"),
    ]
    assert 0 < history.epochs[-1]["train/translated"] < 1
    assert finished.rows["last"]["val/top1"] == history.epochs[-1]["val/top1"]
    assert finished.best_epoch in (1, 2)


def test_a_seed_run_replaces_the_seed_stage_until_the_first_checkpoint(
    finished, seed_run, tiny_shards, tmp_path, monkeypatch
):
    used = tmp_path / "used"
    shutil.copytree(seed_run, used)
    begin = partial(train_method, tiny_shards, tmp_path, "m2m", ACCEPT | {"method.seed_run": str(used)})
    with monkeypatch.context() as patch:
        record_steps(patch, lambda count: count == TINY_STEPS + 1 and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped):
            begin()
    shutil.rmtree(used)
    report = resume(tmp_path, "m2m")
    assert same_weights(report.run, finished.run)
    assert metrics(report.run) == [each for each in metrics(finished.run) if each["stage"] != "seed"]
    assert report.rows == finished.rows


def test_a_run_stopped_in_each_of_its_parts_ends_bit_identically(
    finished, tiny_shards, tmp_path, monkeypatch
):
    stops = [1, 2 * TINY_STEPS, 2 * TINY_STEPS + 2, 4 * TINY_STEPS - 1]
    record_steps(monkeypatch, lambda count: count in stops and os.kill(os.getpid(), signal.SIGTERM))
    begin, stages = partial(train_method, tiny_shards, tmp_path, "m2m", ACCEPT), []
    for _ in stops:
        with pytest.raises(Stopped):
            begin()
        checkpoint = Checkpoint.load(tmp_path / "demo/m2m/last.pt")
        stages.append(checkpoint.position)
        begin = partial(resume, tmp_path, "m2m")
    assert stages == [(0, 0, 1), (0, 1, TINY_STEPS), (1, 0, 2), (1, 1, TINY_STEPS - 1)]
    assert differences(begin().run, finished.run) == []


def test_a_run_at_the_end_of_its_seed_stage_has_no_first_stage_to_rebalance(
    tiny_shards, tmp_path, monkeypatch
):
    def stop(count):
        if count > 2 * TINY_STEPS:
            raise PowerCut

    record_steps(monkeypatch, stop)
    with pytest.raises(PowerCut):
        train_method(tiny_shards, tmp_path, "m2m", ACCEPT)
    assert Checkpoint.load(tmp_path / "demo/m2m/last.pt").position == (0, 2, 0)
    with pytest.raises(UserError, match=r"The representation stage of .* is not finished"):
        fasticcl.rebalance(tmp_path / "demo/m2m", method="tau-norm", device="cpu")
