"""Writing reports: after training, repeatedly, and with bad input."""

import io

import pytest
from rich.console import Console

import fasticcl
from fasticcl.errors import UserError
from fasticcl.report import report as report_module
from tests.support.report_files import read_json
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


def test_training_ends_with_a_report(tiny_shards, tmp_path):
    result, output = train_with_report(tiny_shards, tmp_path)
    assert f"report   {result.run / 'report.html'}" in output
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
