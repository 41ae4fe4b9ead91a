"""Evaluation of finished runs: the saved weights give the accuracies of the report."""

from dataclasses import replace

import pytest
import torch

import fasticcl
from fasticcl.engine import results
from fasticcl.errors import UserError
from fasticcl.system.machine import Machine
from tests.support.small_runs import SHORTEST


@pytest.mark.parametrize("encoder", ["frozen", "tuned"])
def test_evaluate_reproduces_the_report_exactly(train, encoder):
    report = train(set={"rebalance.encoder": encoder}, epochs=2)
    again = fasticcl.evaluate(report.run)
    assert again == report


def test_evaluate_reproduces_a_run_without_rebalancing(train):
    report = train(method="ce", set={"rebalance.epochs": 0})
    assert set(report.rows) == {"last", "best"}
    assert fasticcl.evaluate(report.run) == report


def test_unfinished_run_cannot_be_evaluated(train_few):
    report = train_few(**SHORTEST)
    (report.run / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"is not finished\. Continue it with: fasticcl train demo .*--name run --resume"
    ):
        fasticcl.evaluate(report.run)


def test_saved_runs_are_evaluated_in_the_precision_of_training_without_compilation(digit_run, monkeypatch):
    trained = Machine(torch.device("cpu"), bfloat16=True, mode="step")
    monkeypatch.setattr(results, "choose_machine", lambda *_: trained)
    assert results.open_saved_run(digit_run).machine == replace(trained, mode="off")
