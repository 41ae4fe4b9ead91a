"""Check 8: CUDA graphs while DALI runs, in separate processes, because they may crash."""

import json
import subprocess
import sys
import time

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.supervisor import exit_reason
from _first_light.workloads import photographs, squares

_EXPERIMENTS = ("captured", "loop", "capture")
_ON_CPU = _EXPERIMENTS[:1]  # compares its images, without a graph
_LIMIT = 60.0  # seconds of all processes, which run at the same time


def check(setup: Setup, report: Report) -> None:
    """Train in the modes cuda-graphs and captured, and capture with torch alone, while DALI decodes."""
    deadline = time.monotonic() + _LIMIT * setup.patience
    photographs(setup)  # written once for all processes
    squares(setup)
    names = _EXPERIMENTS if setup.gpu is not None else _ON_CPU
    for name in _EXPERIMENTS[len(names) :]:
        report.skip(name, "CUDA graphs need a GPU")
    processes = {name: Experiment(name, setup) for name in names}
    for name, process in processes.items():
        with report.part(name):
            process.finish(deadline - time.monotonic(), report)


class Experiment:
    """A process of `_first_light.graph_process`.

    Args:
        name: the experiment.
        setup: device and scratch folder.
    """

    def __init__(self, name: str, setup: Setup) -> None:
        self._name, self._result = name, setup.folder / f"{name}.json"
        self._result.unlink(missing_ok=True)
        module = [sys.executable, "-m", "_first_light.graph_process"]
        self._process = subprocess.Popen([*module, name, str(self._result), *setup.arguments()])

    def finish(self, seconds: float, report: Report) -> None:
        """Wait for the process to end, and report its figures, its failures and its exit code or signal."""
        try:
            code: int | None = self._process.wait(max(seconds, 0))
            reason = exit_reason(code) if code else ""
        except subprocess.TimeoutExpired:
            self._process.kill()
            code, reason = None, f"stopped after {_LIMIT:.0f} s"
        written = self._result.exists()
        state = json.loads(self._result.read_text(encoding="utf-8")) if written else {}
        report.add(self._name, {**state.get("figures", {}), "exit_code": code})
        failures = [*state.get("failures", []), *([reason] if reason else [])]
        for failure in failures:
            report.expect(False, f"{self._name}: {failure}")
