"""Steps of `health.probe`, tried in processes of their own: whatever happens to these, doctor goes on."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from fasticcl.doctor.facts import Trial

CPU = (("torch", "torchvision", "torch_decodes", "together"), ("dali", "dali_decodes"))
"""Steps of one process each; `together` also needs what stands before it."""
GPU = (("torch_computes",), ("dali_decodes_on_gpu",), ("jpeg_engine",))
_PATIENCE = 180.0  # seconds; importing torch from a network disk for the first time takes a minute


def run_all(groups: Iterable[Sequence[str]]) -> dict[str, Trial]:
    """Try groups of steps side by side, each in its process; return what came of every step."""
    with ThreadPoolExecutor() as pool:
        return {name: trial for trials in pool.map(run, groups) for name, trial in trials.items()}


def run(steps: Sequence[str], patience: float = _PATIENCE) -> dict[str, Trial]:
    """Try steps one after the other in one process; return what came of each.

    Args:
        steps: names of steps of `health.probe`.
        patience: seconds that the process is given.
    """
    # The process is to find what this one finds, and nothing that lies about in the current folder.
    command = [sys.executable, "-P", "-m", "fasticcl.doctor.probes", *steps]
    surroundings = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=patience, env=surroundings
        )
    except subprocess.TimeoutExpired as error:
        written = error.stdout or b""
        text = written.decode(errors="replace") if isinstance(written, bytes) else written
        return _outcomes(steps, text, f"it did not end within {patience:.0f} s")
    return _outcomes(steps, ended.stdout, _ending(ended.returncode, ended.stderr))


def _outcomes(steps: Sequence[str], output: str, ending: str) -> dict[str, Trial]:
    """Return what a process reported; the first step without a report is the one that it ended in."""
    reports = dict(_reports(output))
    silent = [name for name in steps if name not in reports]
    for place, name in enumerate(silent):
        reports[name] = Trial(error=f"not tried, {silent[0]} ended the process" if place else ending)
    return {name: reports[name] for name in steps}


def _reports(output: str) -> Iterable[tuple[str, Trial]]:
    for line in output.splitlines():
        try:
            report = json.loads(line)
        except ValueError:  # a library prints, too
            continue
        if isinstance(report, Mapping) and "step" in report:
            yield report["step"], Trial(report.get("found"), report.get("error", ""))


def _ending(code: int, errors: str) -> str:
    if code < 0:
        return f"the process was ended by {signal.Signals(-code).name}"
    last = errors.strip().rpartition("\n")[2]
    return f"the process ended with exit code {code}" + (f": {last}" if last else "")
