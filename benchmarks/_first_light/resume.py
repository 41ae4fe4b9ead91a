"""Check 9: training stopped by SIGTERM and resumed, compared with an undisturbed run."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.supervisor import exit_reason
from _first_light.workloads import squares, start

_SIDE = 16  # pixels
_EPOCHS, _STOP_AFTER = 8, 1  # so the signal arrives long before the end
_SIGTERM_CODE = 128 + signal.SIGTERM
# Relative, and in percentage points. The order of sums on a GPU is not fixed.
_LOSS_TOLERANCE, _ACCURACY_TOLERANCE = 0.1, 5.0
_MEASURED = ("throughput/", "time/")  # fields that differ between two equal runs

Records = dict[tuple[Any, ...], dict[str, float]]
"""Losses and accuracies by stage, epoch and step."""


class Training:
    """A process that trains from the command line, with its output in a file.

    Args:
        setup: device and scratch folder.
        name: name of the run.
        options: further words of the command.
    """

    def __init__(self, setup: Setup, name: str, options: Sequence[str]) -> None:
        project = setup.folder / "runs"
        self.run, self._log = project / "demo" / name, setup.folder / f"{name}.log"
        command = [sys.executable, "-m", "fasticcl", "train", "demo"]
        command += ["--project", str(project), "--name", name, *options]
        threads = {"OMP_NUM_THREADS": "1"} if setup.gpu is None else {}
        with open(self._log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **threads}
            )

    def stop_after(self, epochs: int) -> None:
        """Send SIGTERM when some epochs of the representation stage are finished."""
        while self.process.poll() is None:
            if sum("val/top1" in each for each in records(self.run).values()) >= epochs:
                self.process.send_signal(signal.SIGTERM)
                return
            time.sleep(0.02)

    def finish(self, expected: int) -> None:
        """Wait for the end of the process.

        Raises:
            RuntimeError: the exit code is not the expected one.
        """
        code = self.process.wait()
        if code != expected:
            output = self._log.read_text(encoding="utf-8", errors="replace")
            print(output[-4000:], file=sys.stderr)
            last = output.strip().rpartition("\n")[2]
            how = exit_reason(code) if code else "the process finished before SIGTERM arrived"
            raise RuntimeError(f"training run {self.run.name}: {how}: {last}")

    def close(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.wait()


def check(setup: Setup, report: Report) -> None:
    """Train the demo from the command line: undisturbed, and stopped and resumed."""
    start(setup)
    options = ["--data", str(shards(setup, report)), "--device", setup.device]
    options += ["--epochs", str(_EPOCHS)]
    settings = ["engine.compile=off", "engine.report=false", "engine.log_every=1", "rebalance.epochs=2"]
    settings += setup.assignments
    settings += ["method.encoder=resnet8"] if setup.small else []
    options += [word for setting in settings for word in ("--set", setting)]
    trainings = [Training(setup, name, options) for name in ("whole", "stopped")]
    whole, stopped = trainings
    try:
        stopped.stop_after(_STOP_AFTER)
        stopped.finish(_SIGTERM_CODE)
        report.add("records_when_stopped", len(records(stopped.run)))
        trainings.append(Training(setup, "stopped", ["--resume"]))
        trainings[-1].finish(0)
        whole.finish(0)
    finally:
        for training in trainings:
            training.close()
    compare(whole.run, stopped.run, exact=setup.gpu is None, report=report)


def shards(setup: Setup, report: Report) -> Path:
    """Return shards of the demo, or of synthetic images of the same size if its packages are missing."""
    folder = setup.folder / "demo"
    try:
        from fasticcl.convert.conversion import convert
        from fasticcl.convert.layouts import digits

        if not folder.exists():
            convert(digits.read(), folder)
    except Exception as error:  # ImportError, or the package's own error that names the missing package
        report.add("images", f"synthetic, because of {type(error).__name__}: {error}".splitlines()[0])
        return squares(setup, _SIDE)
    report.add("images", "demo")
    return folder


def records(run: Path) -> Records:
    """Return the records of a run, without an incomplete last line."""
    file = run / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True) if file.exists() else []
    parsed = [json.loads(line) for line in lines if line.endswith("\n")]
    return {
        (each["stage"], each["epoch"], each["step"], "val/top1" in each): {
            name: value
            for name, value in each.items()
            if isinstance(value, float | int) and not name.startswith(_MEASURED)
        }
        for each in parsed
    }


def compare(whole: Path, resumed: Path, exact: bool, report: Report) -> None:
    """Report how the records of two runs differ, and expect no difference or one within the tolerances.

    Args:
        whole: run that was not stopped.
        resumed: run that was stopped and resumed.
        exact: if True, records and weights must be equal bit by bit.
        report: receives figures and failures.
    """
    one, two = records(whole), records(resumed)
    report.expect([*one] == [*two], f"{len(two)} records, not the {len(one)} of the undisturbed run")
    loss = accuracy = 0.0
    for key in one.keys() & two.keys():
        for name, value in one[key].items():
            difference = abs(value - two[key].get(name, float("inf")))
            if name.startswith("val/"):
                accuracy = max(accuracy, difference)
            elif name.startswith("train/"):
                loss = max(loss, difference / max(abs(value), 1e-6))
    weights = [(run / "model.safetensors").read_bytes() for run in (whole, resumed)]
    equal = one == two and weights[0] == weights[1]
    figures = {"records": len(one), "largest_relative_loss_difference": loss}
    report.add("resumed", {**figures, "largest_accuracy_difference": accuracy, "bit_equal": equal})
    differences = f"losses differ by {loss:.1%}, accuracies by {accuracy:.1f} points"
    report.note = "bit-equal" if equal else differences
    if exact:
        report.expect(equal, "the resumed run is not bit-equal to the undisturbed run")
    report.expect(loss <= _LOSS_TOLERANCE, f"a loss differs by {loss:.1%}")
    report.expect(accuracy <= _ACCURACY_TOLERANCE, f"an accuracy differs by {accuracy:.1f} points")
