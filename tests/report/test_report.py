"""Writing reports: after training, repeatedly, and with bad input."""

import io

import pytest
from rich.console import Console

import fasticcl
from fasticcl.errors import UserError
from fasticcl.report import report as report_module
from fasticcl.report.run_history import read_history
from tests.support.report_files import read_json, read_page
from tests.support.run_histories import with_readout
from tests.support.small_runs import train_tiny


def train_with_report(shards, project):
    """Train one epoch with a report and return the result and the console output."""
    text = io.StringIO()
    console = Console(file=text, width=300)
    result = train_tiny(shards, project, {"engine.report": True}, epochs=1, console=console)
    return result, text.getvalue()


def test_the_same_run_gives_the_same_page(run):
    fasticcl.report(run)
    first = (run / "report.html").read_bytes()
    fasticcl.report(run)
    assert (run / "report.html").read_bytes() == first


def test_the_report_of_a_readout_has_no_epochs_of_rebalancing(run):
    with_readout(run, "tau_norm", tau=0.7, epochs=10)
    fasticcl.report(run)
    page, text = read_page(run), "\n".join(read_page(run).texts)
    assert "8 epochs of representation learning and the readout tau_norm (τ = 0.7), batch size 20" in text
    assert [row[:2] for row in page.tables[0][1:]] == [
        ["before the readout", "8"],
        ["after the readout", "–"],
    ]
    assert "best epoch" not in text
    assert "Method iccl: readout tau_norm (τ = 0.7)." in text
    assert read_history(run).finished
    assert read_json(run)["accuracies"].keys() == {"before", "after"}
    assert "unfinished" not in (run / "table.tex").read_text()


def test_training_ends_with_a_report(tiny_shards, tmp_path):
    result, output = train_with_report(tiny_shards, tmp_path)
    assert f"report   {result.run / 'report.html'}" in output
    assert ", 1 epoch of representation learning and" in "\n".join(read_page(result.run).texts)
    assert read_json(result.run)["accuracies"]["after"]["val/top1"] == result.rows["after"]["val/top1"]


@pytest.mark.parametrize(
    ("error", "reason"), [(RuntimeError("no fonts"), "no fonts"), (KeyboardInterrupt(), "interrupted")]
)
def test_a_failed_report_does_not_fail_the_run(tiny_shards, tmp_path, monkeypatch, error, reason):
    def fail(*_):
        raise error

    monkeypatch.setattr(report_module, "report_run", fail)
    result, output = train_with_report(tiny_shards, tmp_path)
    assert f"no report was written ({reason}). Write it with: fasticcl report {result.run}" in output
    assert result.rows["after"]


def test_bad_input_raises_user_error(run, tmp_path):
    with pytest.raises(UserError, match="is not a run folder"):
        fasticcl.report(tmp_path)
    with pytest.raises(UserError, match="listed twice"):
        fasticcl.report(run, run, output=tmp_path / "both")
    assert not (tmp_path / "both").exists()
    with pytest.raises(UserError, match="Specify at least one run folder"):
        fasticcl.report()
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Choose another --output"):
        fasticcl.report(run, output=tmp_path / "file")
    (run / "metrics.jsonl").unlink()
    with pytest.raises(UserError, match="no finished epoch"):
        fasticcl.report(run)
