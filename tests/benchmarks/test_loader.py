"""benchmarks/loader.py with fake loaders."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import started_process

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
READY = """
import sys
print('{"variant": "simulated", "trials": {}, "versions": {}}', flush=True)
for number, line in enumerate(sys.stdin, start=1):
    print('{"pairs_per_second": %s, "pairs_per_cpu_second": 10}' % (RATE), flush=True)
"""
MISSING = "import sys; print('it is not installed; install it with: pip install it'); sys.exit(3)"
BROKEN = "raise RuntimeError('the peer failed')"
BUSY_WORKER = """
import time
while time.process_time() < 0.4: pass
print(flush=True)
input()
"""


@pytest.fixture
def run(monkeypatch, tmp_path):
    """A function that runs the benchmark with the given scripts as loaders and returns its result."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    loader = importlib.import_module("loader")

    def call(**scripts: str):
        (tmp_path / "images.json").write_text('{"count": 0}')
        for name, script in scripts.items():
            (tmp_path / f"{name}.py").write_text(script)
        monkeypatch.setattr(loader, "PEERS", {name: tmp_path / f"{name}.py" for name in scripts})
        monkeypatch.setattr(loader, "SETTLE_SECONDS", 0)
        monkeypatch.setattr(loader, "LOAD_SECONDS", 0.02)
        options = ["--folder", tmp_path, "--repeats", "3", "--json", tmp_path / "result.json"]
        monkeypatch.setattr(sys, "argv", ["loader.py", *map(str, options)])
        loader.main()
        return json.loads((tmp_path / "result.json").read_text())

    return call


def test_ratios_are_computed_run_by_run(run):
    result = run(ours=READY.replace("RATE", "number * 6"), other=READY.replace("RATE", "number * number * 2"))
    assert result["systems"]["ours"]["pairs_per_second"]["runs"] == [6, 12, 18]
    assert result["systems"]["other"]["pairs_per_second"]["runs"] == [2, 8, 18]
    ratio = result["systems"]["other"]["ours_divided_by_it_pairs_per_second"]
    assert ratio == {"runs": [3, 1.5, 1], "median": 1.5, "min": 1, "max": 3}


def test_a_loader_that_is_not_installed_is_skipped_with_a_message(run, capsys):
    result = run(ours=READY.replace("RATE", "6"), other=MISSING)
    assert list(result["systems"]) == ["ours"]
    message = "other is skipped: it is not installed; install it with: pip install it\n"
    assert message in capsys.readouterr().out


def test_a_crashed_loader_ends_the_benchmark_with_its_last_message(run):
    with pytest.raises(SystemExit, match="other ended with status 1: RuntimeError: the peer failed"):
        run(ours=READY.replace("RATE", "6"), other=BROKEN)


def test_processor_time_includes_running_workers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS / "peers"))
    peer = importlib.import_module("_peer")
    before = peer._cpu_seconds()
    with started_process(
        [sys.executable, "-c", BUSY_WORKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as worker:
        assert worker.stdout
        worker.stdout.readline()
        assert peer._cpu_seconds() - before > 0.35
        worker.communicate("\n")
