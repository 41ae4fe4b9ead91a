"""Tests of ``engine.eval_every``, which changes neither the training nor an exact resume."""

import csv
import json

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fasticcl
from fasticcl.engine.evaluate import METRICS
from fasticcl.errors import UserError
from fasticcl.report.run_figures import accuracy_curves
from fasticcl.report.run_history import read_history
from tests.support.small_runs import (
    ConsoleOutput,
    PowerCut,
    differences,
    metrics,
    record_steps,
    resume,
    same_weights,
    train_tiny,
)

SETTINGS = {"rebalance.epochs": 4, "rebalance.encoder": "tuned"}
EVALUATED = [("representation", 3), ("representation", 5), ("rebalancing", 3), ("rebalancing", 4)]
"""Epochs that are evaluated every 3 epochs: also the last one of each stage."""


def train(shards, project, every=3, **options):
    settings = SETTINGS | {"engine.eval_every": every}
    return train_tiny(shards, project, settings, epochs=5, logger="tensorboard", **options)


@pytest.fixture(scope="module")
def output():
    """The console of the run with gaps."""
    return ConsoleOutput()


@pytest.fixture(scope="module")
def gaps(tiny_shards, tmp_path_factory, output):
    """The report of a run that evaluates every 3 epochs."""
    project = tmp_path_factory.mktemp("gaps")
    return train(tiny_shards, project, console=output.console)


@pytest.fixture(scope="module")
def every(tiny_shards, tmp_path_factory):
    """The report of a run that evaluates every epoch."""
    return train(tiny_shards, tmp_path_factory.mktemp("every"), 1)


def position(record):
    return record["stage"], record["epoch"]


def test_evaluation_changes_no_weight_and_no_record(gaps, every):
    assert same_weights(gaps.run, every.run)
    one, other = metrics(gaps.run), metrics(every.run)
    assert len(one) == len(other)
    for record, full in zip(one, other, strict=True):
        if "val/top1" in full and position(full) not in EVALUATED:
            full = full | dict.fromkeys(METRICS)
        assert record == full


def test_results_have_empty_cells_for_epochs_without_evaluation(gaps):
    with open(gaps.run / "results.csv") as file:
        rows = [*csv.DictReader(file)]
    assert len(rows) == 9
    filled = [(row["stage"], int(row["epoch"])) for row in rows if row["val/top1"]]
    assert filled == EVALUATED
    assert all(row["train/loss"] for row in rows)
    assert all(row["val/few"] == "" for row in rows if not row["val/top1"])


def test_report_and_saved_weights_are_those_of_evaluated_epochs(gaps, every):
    assert gaps.rows["before"] == every.rows["before"]
    assert gaps.rows["after"] == every.rows["after"]
    assert ("rebalancing", gaps.best_epoch) in EVALUATED
    assert fasticcl.evaluate(gaps.run) == gaps
    best = torch.load(gaps.run / "best.pt", weights_only=True)["record"]
    assert position(best) == ("rebalancing", gaps.best_epoch)


@pytest.mark.usefixtures("gaps")
def test_display_shows_accuracies_of_evaluated_epochs_only(output):
    lines = [line for line in output.file.getvalue().splitlines() if "images/s" in line]
    assert [" top1 " in line for line in lines] == [False, False, True, False, True, False, False, True, True]
    assert not any("top1 -" in line for line in lines)


def test_loggers_get_no_accuracy_without_evaluation(gaps):
    found = EventAccumulator(str(gaps.run / "tensorboard")).Reload()
    steps = [3 * epoch for epoch in (3, 5, 5 + 3, 5 + 4)]
    assert [event.step for event in found.Scalars("val/top1")] == steps
    assert [event.step for event in found.Scalars("data/bad_samples")] == [
        3 * epoch for epoch in range(1, 10)
    ]


def test_records_have_the_share_of_evaluation_and_of_the_previous_checkpoint(gaps):
    lines = (gaps.run / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "val/top1" in record]
    assert [record["time/eval_pct"] > 0 for record in records] == [position(r) in EVALUATED for r in records]
    assert all(0 < record["time/eval_pct"] + record["time/save_pct"] < 100 for record in records)
    assert all(record["time/epoch_sec"] > 0 for record in records)


def test_checkpoint_at_the_end_of_an_epoch_counts_in_the_next_record(tiny_shards, tmp_path):
    report = train_tiny(tiny_shards, tmp_path, {"engine.save_every": "1000"}, epochs=3)
    lines = (report.run / "metrics.jsonl").read_text().splitlines()
    saving = [record["time/save_pct"] for record in map(json.loads, lines) if "val/top1" in record]
    assert [share > 0 for share in saving[:3]] == [False, True, True]


@pytest.mark.parametrize("steps", [(3, 4), (5, 9, 14), (16, 20, 26)])
def test_killed_run_resumes_bit_identically(tiny_shards, tmp_path, monkeypatch, gaps, steps):
    def cut(count):
        if count in steps:
            raise PowerCut

    with monkeypatch.context() as patch:
        record_steps(patch, cut)
        with pytest.raises(PowerCut):
            train(tiny_shards, tmp_path)
        for _ in steps[1:]:
            with pytest.raises(PowerCut):
                resume(tmp_path)
    resume(tmp_path)
    assert differences(tmp_path / "demo/run", gaps.run) == []


def test_rebalance_of_such_a_run_reproduces_it(gaps):
    report = fasticcl.rebalance(gaps.run, name="again")
    assert report.rows == gaps.rows
    assert same_weights(report.run, gaps.run)


def test_reports_of_unfinished_runs_use_their_evaluated_epochs(tiny_shards, tmp_path, monkeypatch):
    def cut(count):
        if count in (7, 14):  # the first steps of epochs 3 and 5, because a step is repeated
            raise PowerCut

    with monkeypatch.context() as patch:
        record_steps(patch, cut)
        with pytest.raises(PowerCut):
            train(tiny_shards, tmp_path)
        run = tmp_path / "demo/run"
        with pytest.raises(UserError, match=r"has no evaluated epoch to report\. Continue it with"):
            fasticcl.report(run)
        with pytest.raises(PowerCut):
            resume(tmp_path)
    history = read_history(run)
    assert len(history.epochs) == 4
    assert {name: epoch for name, (epoch, _) in history.accuracies.items()} == {"last": 3, "best": 3}
    assert history.final_accuracies["val/top1"] == history.epochs[2]["val/top1"]


def test_curves_connect_evaluated_epochs(gaps):
    curve = accuracy_curves(read_history(gaps.run)).axes[0].lines[0]
    assert curve.get_xdata().tolist() == [3, 5, 8, 9]
    assert curve.get_marker() == "o"


@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_eval_every_is_a_positive_number_of_epochs(value):
    with pytest.raises(UserError, match=r"engine\.eval_every"):
        fasticcl.configure("demo", set={"engine.eval_every": value})
