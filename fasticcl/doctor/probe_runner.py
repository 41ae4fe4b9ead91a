"""Run the probes of `fasticcl.doctor.probes` in subprocesses, so that a crash does not end doctor."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from fasticcl.doctor.facts import ProbeResult

# Each group runs in one process. `joint_decoding` relies on the imports of the probes before it.
CPU_PROBES = (
    ("torch", "torchvision", "joint_decoding"),
    ("dali", "dali_decoding"),
)
GPU_PROBES = (("torch_on_gpu",), ("dali_decoding_on_gpu", "dali_regions_on_gpu"), ("jpeg_engine",))
_TIMEOUT = 180.0  # seconds. The first import of torch from a network disk takes a minute.


def run_all(groups: Iterable[Sequence[str]]) -> dict[str, ProbeResult]:
    """Run groups of probes in parallel, one process per group. Return the results by name."""
    with ThreadPoolExecutor() as pool:
        return {name: result for results in pool.map(run, groups) for name, result in results.items()}


def run(probes: Sequence[str], timeout: float = _TIMEOUT) -> dict[str, ProbeResult]:
    """Run probes one after the other in one subprocess. Return the results by name.

    Args:
        probes: names of probes in `fasticcl.doctor.probes`.
        timeout: time limit of the subprocess in seconds.
    """
    # -P and PYTHONPATH make the subprocess import the same modules as this process, and none from the
    # current folder.
    command = [sys.executable, "-P", "-m", "fasticcl.doctor.probes", *probes]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    try:
        process = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=timeout, env=environment
        )
    except subprocess.TimeoutExpired as error:
        output = error.stdout or b""
        text = output.decode(errors="replace") if isinstance(output, bytes) else output
        return _results(probes, text, f"it did not finish within {timeout:.0f} s")
    return _results(probes, process.stdout, _exit_reason(process.returncode, process.stderr))


def _results(probes: Sequence[str], output: str, exit_reason: str) -> dict[str, ProbeResult]:
    """Return the reported results. The process ended in the first probe without a report."""
    results = dict(_reports(output))
    missing = [name for name in probes if name not in results]
    for position, name in enumerate(missing):
        results[name] = ProbeResult(
            error=f"not run because the probe {missing[0]} ended the process" if position else exit_reason
        )
    return {name: results[name] for name in probes}


def _reports(output: str) -> Iterable[tuple[str, ProbeResult]]:
    for line in output.splitlines():
        try:
            report = json.loads(line)
        except ValueError:  # output of a library
            continue
        if isinstance(report, Mapping) and "probe" in report:
            yield report["probe"], ProbeResult(report.get("values"), report.get("error", ""))


def _exit_reason(code: int, stderr: str) -> str:
    if code < 0:
        return f"the process was killed by {signal.Signals(-code).name}"
    last_line = stderr.strip().rpartition("\n")[2]
    return f"the process ended with exit code {code}" + (f": {last_line}" if last_line else "")
