"""Seconds of the steps of runs, measured on this machine in short training passes."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from fasticcl.bench.measure import Clock, throughput
from fasticcl.bench.run_work import StepKind, Work
from fasticcl.bench.training import STEP_WARMUP, evaluation_task, loader_warmup, training_task
from fasticcl.bench.workload import Workload, open_run_workload, reduced_batch_size
from fasticcl.engine.loaders import evaluation_batch_size
from fasticcl.errors import FasticclError
from fasticcl.system.machine import choose_machine

_CPU_SECONDS, _GPU_SECONDS = 2.0, 3.0
BUDGET = 30.0
"""Seconds after which no further kind is measured, except the first of each encoder."""
_MIN_STEPS, _MIN_REDUCED_STEPS = 3, 2
_SYNTHETIC_IMAGES = 64


@dataclass(frozen=True)
class StepTime:
    """The time of a step of one kind."""

    seconds: float
    cost: float
    """Assumed cost of this step, see `Work.cost`."""
    source: Literal["measured", "recorded"] = "measured"
    """recorded: from the metrics of a run."""
    synthetic: bool = False
    """True if the images were generated."""
    batch_size: int | None = None
    """Batch size with which it was measured, if a CPU takes too long with that of the run."""


class StepTimes:
    """Times of steps. Those of a kind without one are derived from another kind with the same network.

    Args:
        known: the known times, most important first.
        failures: the reason by kind that could not be measured.
    """

    def __init__(
        self, known: Mapping[StepKind, StepTime], failures: Mapping[StepKind, str] | None = None
    ) -> None:
        self.known, self.failures = dict(known), dict(failures or {})

    def seconds(self, work: Iterable[Work]) -> float | None:
        """Return the seconds that work takes, or None if there is no time from which to derive it."""
        total = 0.0
        for part in work:
            time = self.known.get(part.kind) or self._similar(part.kind)
            if time is None:
                return None
            total += part.steps * time.seconds * part.cost / time.cost
        return total

    def _similar(self, kind: StepKind) -> StepTime | None:
        """Return the time of the most important other activity of the same network and mode."""
        group = [other for other in self.known if _group(other) == _group(kind)]
        group.sort(key=lambda other: other.activity == "evaluation")  # stable
        return self.known[group[0]] if group else None


def measure_step_times(
    work: Iterable[Work],
    folder: Path,
    *,
    known: Mapping[StepKind, StepTime],
    seconds: float | None = None,
    budget: float = BUDGET,
    show_status: Callable[[str], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> StepTimes:
    """Measure the kinds of steps of which the time is not known, the most expensive ones first.

    Args:
        work: the work of all runs.
        folder: folder for synthetic images.
        known: the times that are known without measuring.
        seconds: seconds of a measurement. None: 2, or 3 on a GPU.
        budget: seconds after which only one kind of each network and mode is measured.
        show_status: called with a description of each measurement.
        clock: returns the time in seconds.
    """
    kinds = {kind: cost for kind, cost in by_importance(work).items() if kind not in known}
    times, failures = dict(known), {}
    began, workloads = clock(), Workloads(folder)
    for number, (kind, cost) in enumerate(kinds.items(), 1):
        is_first = all(_group(other) != _group(kind) for other in times)
        if clock() - began > budget and not is_first:
            continue
        show_status(f"measuring {kind.describe()} ({number} of {len(kinds)})")
        try:
            workload = workloads.open(kind)
            if kind.activity in ("evaluation", *workload.phases):
                size = workload.config.optim.batch_size
                times[kind] = StepTime(
                    measure_step(kind, workload, seconds, clock),
                    cost,
                    synthetic=workload.generated is not None,
                    batch_size=size if size < kind.config.optim.batch_size else None,
                )
        except (FasticclError, torch.OutOfMemoryError) as error:
            failures[kind] = str(error).splitlines()[0]
    return StepTimes({kind: times[kind] for kind in [*kinds, *known] if kind in times}, failures)


def by_importance(work: Iterable[Work]) -> dict[StepKind, float]:
    """Return the cost of a step of each kind, in the order of the total cost, with evaluations last."""
    costs: dict[StepKind, float] = {}
    totals: dict[StepKind, float] = {}
    for part in work:
        costs.setdefault(part.kind, part.cost)  # of the configuration that the kind contains
        totals[part.kind] = totals.get(part.kind, 0.0) + part.steps * part.cost
    order = sorted(costs, key=lambda kind: (kind.activity == "evaluation", -totals[kind]))
    return {kind: costs[kind] for kind in order}


class Workloads:
    """The workloads of kinds of steps. Synthetic images are generated once for each dataset.

    Args:
        folder: folder for synthetic images.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._opened: dict[tuple[object, ...], Workload] = {}

    def open(self, kind: StepKind) -> Workload:
        """Return the workload of a kind, with smaller batches if a CPU takes too long with those of the run.

        Raises:
            UserError: the data or the machine does not fit the configuration.
        """
        config = kind.config
        machine = replace(choose_machine(config.engine), mode=kind.mode)
        if machine.gpu is not None:
            torch.backends.cudnn.benchmark = True  # as in training
        if reduced := reduced_batch_size(config, machine):
            optim = config.optim.model_copy(update={"batch_size": reduced})
            config = config.model_copy(update={"optim": optim})
        data = config.data
        key = (data.dir, data.dataset, data.crop, data.image_size, config.optim.batch_size)
        if key not in self._opened:
            folder = self._folder / str(len(self._opened))
            self._opened[key] = open_run_workload(folder, config, machine, _SYNTHETIC_IMAGES)
        opened = self._opened[key]
        if opened.generated:
            data = data.model_copy(update={"dir": opened.config.data.dir, "holdout": 0.0})
        return replace(opened, config=config.model_copy(update={"data": data}), machine=machine)


def measure_step(
    kind: StepKind,
    workload: Workload,
    seconds: float | None = None,
    clock: Clock = time.perf_counter,
    synchronize: Callable[[], None] | None = None,
) -> float:
    """Return the seconds of a step of a run.

    Args:
        kind: the steps.
        workload: their workload, see `Workloads`.
        seconds: seconds of the measurement. None: 2, or 3 on a GPU.
        clock: returns the time in seconds.
        synchronize: called before the measurement and at its end. None: wait for the device.
    """
    on_gpu, config = workload.machine.gpu is not None, workload.config
    if kind.activity == "evaluation":
        task = evaluation_task(workload)
        images = evaluation_batch_size(kind.config, workload.machine)
    else:
        task = training_task(workload, kind.activity)
        images = kind.config.optim.batch_size * (2 if kind.activity == "interpolative" else 1)
    is_reduced = config.optim.batch_size < kind.config.optim.batch_size
    # Steps on a CPU take longer than preparing images, or there are many of them in the measured time, so a
    # full queue at the start does not matter.
    warmup = max(STEP_WARMUP, loader_warmup(config)) if on_gpu else 1 if is_reduced else STEP_WARMUP
    rate = throughput(
        task,
        seconds=seconds or (_GPU_SECONDS if on_gpu else _CPU_SECONDS),
        warmup=warmup,
        min_batches=_MIN_REDUCED_STEPS if is_reduced else _MIN_STEPS,
        synchronize=synchronize or workload.machine.synchronize,
        clock=clock,
    )
    return images / rate


def _group(kind: StepKind) -> tuple[object, ...]:
    return (kind.mode, kind.network)
