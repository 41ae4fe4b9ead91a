"""Time of a training step while several processes train on this machine."""

import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from fasticcl.bench.run_work import Activity, StepKind
from fasticcl.bench.step_times import Workloads, measure_step
from fasticcl.engine.run.folder import CONFIG
from fasticcl.resolve import resolve
from fasticcl.system.machine import Mode

_READY = "ready"
_SECONDS = 4.0  # long enough that all processes are measured at the same time
_MEASURE = "from fasticcl.bench.side_by_side import measure_in_step; measure_in_step()"


def side_by_side_seconds(
    kind: StepKind,
    folder: Path,
    environments: Sequence[Mapping[str, str]],
    workers: int | None,
    seconds: float = _SECONDS,
) -> float | None:
    """Return the seconds of a step while as many processes take such steps as there are environments.

    Args:
        kind: the steps.
        folder: empty folder for configurations and synthetic images.
        environments: environment variables of each process, in addition to those of this one.
        workers: threads of each process that decode images. None: the default.
        seconds: seconds of the measurement.

    Returns:
        The median over the processes, or None if one of them fails.
    """
    engine = kind.config.engine.model_copy(update={"workers": kind.config.engine.workers or workers})
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(kind.config.model_copy(update={"engine": engine}).to_toml())
    command = [sys.executable, "-c", _MEASURE, str(folder), kind.activity, kind.mode, str(seconds)]
    processes = [
        subprocess.Popen(
            [*command, str(folder / str(number))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
            text=True,
        )
        for number, environment in enumerate(environments)
    ]
    try:
        for process in processes:
            assert process.stdout
            if process.stdout.readline().strip() != _READY:
                return None
        for process in processes:
            assert process.stdin
            process.stdin.write("\n")
            process.stdin.flush()
        outputs = [process.communicate()[0] for process in processes]
        return statistics.median(map(float, outputs)) if all(outputs) else None
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def measure_in_step() -> None:
    """Measure a step when a line arrives on standard input, and print its seconds.

    The command line contains the folder of the configuration, the activity, the mode, the seconds of the
    measurement and an empty folder for synthetic images.
    """
    folder, activity, mode, seconds, scratch = sys.argv[1:]
    kind = StepKind.of(resolve(file=Path(folder) / CONFIG), cast("Activity", activity), cast("Mode", mode))
    workload = Workloads(Path(scratch)).open(kind)
    is_ready = False

    def wait_for_others() -> None:
        nonlocal is_ready
        workload.machine.synchronize()
        if not is_ready:  # after the warm-up
            is_ready = True
            sys.stdout.write(f"{_READY}\n")
            sys.stdout.flush()
            sys.stdin.readline()

    sys.stdout.write(f"{measure_step(kind, workload, float(seconds), synchronize=wait_for_others)}\n")
