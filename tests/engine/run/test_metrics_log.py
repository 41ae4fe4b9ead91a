"""Tests of the records of a run and their truncation on resume."""

import json
import math

import pytest

from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.engine.run.deferred_writes import DeferredWrites
from fasticcl.engine.run.metrics_log import MetricsLog
from fasticcl.engine.run.writer_thread import WriterThread


def record(epoch, step, **values):
    return {"stage": "representation", "epoch": epoch, "step": step, **values}


@pytest.fixture
def log(tmp_path):
    return MetricsLog(DeferredWrites(tmp_path), WriterThread())


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_non_finite_numbers_are_written_as_null(log, tmp_path):
    log.log(record(1, 1, loss=math.nan))
    assert records(tmp_path) == [record(1, 1, loss=None)]


def test_best_is_the_earliest_of_equal_epochs(log):
    for epoch, accuracy in enumerate((10.0, 30.0, 30.0), start=1):
        log.finish_epoch(record(epoch, 3, **{"val/top1": accuracy}))
    assert log.best("representation")["epoch"] == 2
    assert log.last("representation")["epoch"] == 3
    assert log.best("rebalancing") is None


def test_best_is_chosen_among_evaluated_epochs(log, tmp_path):
    for epoch, accuracy in enumerate((None, 30.0, None), start=1):
        log.finish_epoch(record(epoch, 3, **{"val/top1": accuracy}))
    assert log.best("representation")["epoch"] == 2
    assert log.last("representation")["epoch"] == 3
    state = {"network": {}, "optimizer": {}}
    log.rewind(Checkpoint("representation", 0, 3, "", state))
    assert records(tmp_path) == []  # the first record ends an epoch although it has no accuracy


def test_rewind_drops_newer_records_and_restores_unwritten_ones(log, tmp_path):
    for step in (1, 2, 3):
        log.log(record(1, step))
    line = json.dumps(record(1, 2, late=True)) + "\n"
    state = {"network": {}, "optimizer": {}}
    log.rewind(Checkpoint("representation", 0, 2, "", state, unwritten=line))
    assert records(tmp_path) == [record(1, 1), record(1, 2), record(1, 2, late=True)]
    log.rewind(None)
    assert records(tmp_path) == []


def test_rewind_to_the_last_step_of_an_epoch_drops_its_evaluation(log, tmp_path):
    log.log(record(1, 3))
    log.finish_epoch(record(1, 3, **{"val/top1": 50.0}))
    state = {"network": {}, "optimizer": {}}
    log.rewind(Checkpoint("representation", 1, 0, "", state))
    assert records(tmp_path) == [record(1, 3), record(1, 3, **{"val/top1": 50.0})]
    log.rewind(Checkpoint("representation", 0, 3, "", state))
    assert records(tmp_path) == [record(1, 3)]
