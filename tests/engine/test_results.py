"""Evaluation of finished runs: the saved weights give the accuracies of the report."""

import pytest

import fasticcl
from fasticcl.errors import UserError


@pytest.mark.parametrize("encoder", ["frozen", "tuned"])
def test_evaluate_reproduces_the_report_exactly(train, encoder):
    report = train(set={"rebalance.encoder": encoder}, epochs=4)
    again = fasticcl.evaluate(report.run)
    assert again == report


def test_evaluate_reproduces_a_run_without_rebalancing(train):
    report = train(method="ce", set={"rebalance.epochs": 0})
    assert set(report.rows) == {"last", "best"}
    assert fasticcl.evaluate(report.run) == report


def test_unfinished_run_cannot_be_evaluated(train):
    report = train()
    (report.run / "model.safetensors").unlink()
    with pytest.raises(
        UserError, match=r"is not finished\. Continue it with: fasticcl train demo .*--name run --resume"
    ):
        fasticcl.evaluate(report.run)
