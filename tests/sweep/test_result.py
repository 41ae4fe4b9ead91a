"""Choice of the best setting, and the JSON and CSV files."""

import csv
import json

import pytest

import fasticcl
from fasticcl.sweep.result import Holdout, SweepEntry, SweepResult


def sweep_result(*scores, run_setting=None, criterion="holdout"):
    """Return a sweep with these accuracies by the criterion, and others by the other."""
    entries = []
    for i, score in enumerate(scores):
        holdout, simulated = (score, float(-i)) if criterion == "holdout" else (float(-i), score)
        metrics = {"val/top1": 90.0 - 10 * i}
        entries.append(SweepEntry({"rebalance.gamma": i}, i == run_setting, metrics, holdout, simulated))
    return SweepResult(
        run="runs/demo/a run",
        folder=None,
        split="test",
        holdout=Holdout(0.1, 8, 8, True),
        method=None,
        fixed={"rebalance.epochs": 5},
        before={},
        holdout_before=None,
        criterion=criterion,
        simulated_before=None,
        entries=entries,
        planned=len(entries),
    )


@pytest.mark.parametrize("criterion", ["holdout", "simulated"])
def test_the_best_setting_is_chosen_by_the_criterion_alone(criterion):
    assert sweep_result(50.0, 60.0, 55.0, criterion=criterion).best.values == {"rebalance.gamma": 1}
    assert sweep_result(None, 0.0, None, criterion=criterion).best.values == {"rebalance.gamma": 1}
    assert sweep_result(None, None, criterion=criterion).best is None


def test_ties_are_broken_by_the_setting_of_the_run_and_then_the_first():
    assert sweep_result(50.0, 60.0, 60.0, run_setting=2).best.values == {"rebalance.gamma": 2}
    assert sweep_result(50.0, 60.0, 60.0, run_setting=0).best.values == {"rebalance.gamma": 1}


def test_no_setting_is_best_if_all_are_equal_or_there_is_no_holdout():
    assert sweep_result(100.0, 100.0, run_setting=1).best is None
    assert sweep_result(None, None).best is None
    assert sweep_result(100.0, 100.0).command is None
    assert sweep_result(70.0).best.values == {"rebalance.gamma": 0}


def test_the_command_rebalances_with_the_best_setting():
    command = "fasticcl rebalance 'runs/demo/a run' --set rebalance.epochs=5 --set rebalance.gamma=1"
    assert sweep_result(50.0, 60.0).command == command


def test_json_and_csv_contain_the_result_and_the_run_is_unchanged(run):
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    sweep = fasticcl.sweep(run, over=["rebalance.gamma=0,0.5,1"], holdout=1)
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
    assert sweep.folder.parent == run
    stored = json.loads((sweep.folder / "sweep.json").read_text())
    assert stored == json.loads(json.dumps(sweep.as_dict()))
    assert stored["finished"]
    assert stored["criterion"] == "simulated"
    assert 0 <= stored["before"]["simulated"] <= 100
    assert stored["holdout"] == {"holdout": 1, "images": 8, "classes": 8, "seen": True}
    assert stored["before"]["val/top1"] == fasticcl.evaluate(run).rows["before"]["val/top1"]
    with open(sweep.folder / "sweep.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["rebalance.gamma"]) for row in rows] == [0, 0.5, 1]
    assert [float(row["held_back"]) for row in rows] == [entry.holdout_accuracy for entry in sweep.entries]
    assert [float(row["simulated"]) for row in rows] == [entry.simulated_accuracy for entry in sweep.entries]
    assert fasticcl.sweep(run, over=["rebalance.gamma=0"]).folder != sweep.folder
