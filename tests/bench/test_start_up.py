"""Time of a run outside its steps."""

import subprocess

from fasticcl.bench.start_up import start_up_seconds


def test_a_short_run_is_timed(run_cli, monkeypatch, tmp_path):
    def run(command, **_):
        assert command[1:3] == ["-m", "fasticcl"]
        code, _, error = run_cli(*command[3:])
        assert code == 0, error

    monkeypatch.setattr(subprocess, "run", run)
    ticks = iter([5.0, 12.0])
    assert start_up_seconds(tmp_path, "cpu", clock=lambda: next(ticks)) == 7.0
    assert [*tmp_path.glob("runs/folder/*/report.html")]


def test_a_run_that_fails_is_not_timed(monkeypatch, tmp_path):
    def fail(command, **_):
        raise subprocess.CalledProcessError(1, command)

    monkeypatch.setattr(subprocess, "run", fail)
    assert start_up_seconds(tmp_path, "cpu") is None
