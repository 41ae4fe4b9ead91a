"""Times of steps from the metrics of existing runs on the same machine."""

import statistics
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from fasticcl.bench.run_work import StepKind, dataset_sizes, run_work
from fasticcl.bench.step_times import StepTime
from fasticcl.engine.evaluate import is_evaluated
from fasticcl.engine.loaders import evaluation_batch_size
from fasticcl.engine.stages.m2m import seed_config
from fasticcl.report.run_history import RunHistory
from fasticcl.system.hardware import cpu_model
from fasticcl.system.machine import MODES, choose_machine

_SHARES = ("time/eval_pct", "time/save_pct")


def recorded_times(histories: Iterable[RunHistory]) -> dict[StepKind, StepTime]:
    """Return the shortest time of each kind of steps that runs on this machine have recorded.

    The time in a run is the median of its epochs. The shortest one is that of the run with the least other
    work beside it.
    """
    times: dict[StepKind, StepTime] = {}
    for history in histories:
        if not is_same_machine(history):
            continue
        for kind, time in _times(history).items():
            if kind not in times or time.seconds < times[kind].seconds:
                times[kind] = time
    return times


def is_same_machine(history: RunHistory) -> bool:
    """Return True if all starts of a run were on this kind of GPU or CPU, with this version of torch."""
    machine = choose_machine(history.config.engine)
    described = {replace(machine, mode=mode).describe() for mode in MODES}
    return bool(history.environments) and all(
        start.get("machine") in described and start.get("ranks") == 1 and start.get("cpu") == cpu_model()
        for start in history.environments
    )


def _times(history: RunHistory) -> dict[StepKind, StepTime]:
    """Return the median times of the steps and evaluations of a run."""
    config, sizes = history.config, dataset_sizes(history.config)
    if config.engine.fast_dev_run or sizes is None:
        return {}
    machine = choose_machine(config.engine)
    costs = {part.kind: part.cost for part in run_work(config, sizes, machine)}
    mode = next(iter(costs)).mode
    batches = sizes.evaluated / evaluation_batch_size(config, machine)
    seconds: dict[StepKind, list[float]] = {}
    for record in _undisturbed(history.epochs):
        evaluation, saving = (record["time/epoch_sec"] * record[key] / 100 for key in _SHARES)
        if record["phase"] != "readout":
            of_stage = seed_config(config) if record["stage"] == "seed" else config
            kind = StepKind.of(of_stage, record["phase"], mode)
            steps = record["time/epoch_sec"] - evaluation - saving
            seconds.setdefault(kind, []).append(steps / record["step"])
        if is_evaluated(record):
            kind = StepKind.of(config, "evaluation", mode)
            seconds.setdefault(kind, []).append(evaluation / batches)
    return {
        kind: StepTime(statistics.median(values), costs[kind], "recorded")
        for kind, values in seconds.items()
        if kind in costs
    }


def _undisturbed(epochs: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield the records except the first of each phase, in which pipelines start and torch compiles."""
    started = set()
    for record in epochs:
        phase = (record["stage"], record["phase"])
        if "time/epoch_sec" in record and (phase in started or phase[1] == "readout"):
            yield record
        started.add(phase)
