"""Training with the unmodified CIFAR-100-LT preset in a process of its own."""

import csv
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from _gpu.bench import Bench, Figures, Row

_LIMIT = 240.0  # seconds
_SECONDS = 90.0  # the target, as the estimate
_RESERVE = 5.0  # seconds for the last line before the deadline
_ACCURACIES = ("val/top1", "val/many", "val/medium", "val/few")
# The child ends with this process, even if this process is killed.
_RUN = (
    "import ctypes, runpy; ctypes.CDLL(None).prctl(1, 9); "  # PR_SET_PDEATHSIG, SIGKILL
    "runpy.run_module('fasticcl', run_name='__main__', alter_sys=True)"
)


def cifar(bench: Bench) -> list[Row]:
    """Train 200 epochs and rebalance 10, if the shards of CIFAR-100-LT are given."""
    if bench.cifar is None:
        return []

    def measure() -> Figures:
        limit = min(_LIMIT, bench.seconds_left() - _RESERVE)
        return run(arguments(bench), bench.folder / "cifar/cifar100-lt/seed0/results.csv", limit)

    return [Row("seed 0", _SECONDS, measure)]


def arguments(bench: Bench) -> list[str]:
    """Return the arguments of ``fasticcl train``: the preset without changes, and no report."""
    data, project = ("--data", str(bench.cifar)), ("--project", str(bench.folder / "cifar"))
    run = ("--name", "seed0", "--seed", "0", "--device", bench.device, "--no-report")
    settings = [word for setting in bench.assignments for word in ("--set", setting)]
    return ["cifar100-lt", *data, *project, *run, *settings, *bench.sizes.cifar]


def run(arguments: list[str], results: Path, limit: float) -> Figures:
    """Train and return the wall time of the process and the accuracies of the last epoch of each stage."""
    command = [sys.executable, "-c", _RUN, "train", *arguments]
    with tempfile.TemporaryFile() as file:  # a process that outlives the child would keep a pipe open
        began = time.monotonic()
        try:
            ended = subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, timeout=limit)
        except subprocess.TimeoutExpired:
            reason = f"not finished after {limit:.0f} s"
            return {"failed": reason, "stopped after, s": round(limit, 1), **accuracies(results)}
        wall = time.monotonic() - began
        file.seek(0)
        output = file.read().decode(errors="replace").strip()
    if ended.returncode:
        print(output[-4000:], file=sys.stderr)
        return {"failed": f"exit code {ended.returncode}: {(output.splitlines() or [''])[-1]}"}
    return {"wall, s": round(wall, 1), **accuracies(results)}


def accuracies(results: Path) -> Figures:
    """Return epoch and accuracies of the last epoch of each stage in ``results.csv``."""
    if not results.exists():
        return {}
    with open(results, encoding="utf-8", newline="") as file:
        last = {record["stage"]: record for record in csv.DictReader(file)}
    figures: Figures = {}
    for stage, record in last.items():
        figures[f"{stage}, epoch"] = int(record["epoch"])
        for name in _ACCURACIES:
            if record[name]:  # empty if no class has that size
                figures[f"{stage}, {name.removeprefix('val/')}"] = float(record[name])
    return figures
