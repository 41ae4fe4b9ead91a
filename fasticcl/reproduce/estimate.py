"""The time that a plan takes on this machine."""

import heapq
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console

from fasticcl.bench.run_work import Work, dataset_sizes, run_work
from fasticcl.bench.side_by_side import side_by_side_seconds
from fasticcl.bench.start_up import start_up_seconds
from fasticcl.bench.step_times import BUDGET, StepTimes, measure_step_times
from fasticcl.bench.suite import QUIET
from fasticcl.engine.stages.stage import STAGES
from fasticcl.report.run_history import read_epochs
from fasticcl.reproduce.existing_runs import ExistingRun
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.recorded_times import recorded_times
from fasticcl.reproduce.training.slots import machine_slots
from fasticcl.shards.manifest import Manifest
from fasticcl.system.hardware import cpu_model
from fasticcl.system.machine import choose_machine
from fasticcl.system.resources import usable_cores


@dataclass(frozen=True)
class Estimate:
    """The estimated time of a plan."""

    seconds: Mapping[Path, float | None]
    """Remaining seconds of each run by its folder. None: unknown, because its data is missing or its steps
    could not be measured."""
    total: float
    """Seconds until all runs with a known time are finished."""
    jobs: int
    """Number of runs side by side."""
    device: str
    """The machine, such as ``2 cores of AMD EPYC``."""
    start_up: float | None
    """Seconds of each run outside its steps and evaluations, contained in ``seconds``. None: not measured."""
    slowdown: float | None = None
    """Time of a step beside other runs, relative to a step alone. None: runs are trained one after the other,
    or it could not be measured."""
    notes: Sequence[str] = field(default_factory=list)
    """Sentences on the measurement of the times and on the costs that they leave out."""

    def of(self, job: Job) -> float | None:
        """Return the remaining seconds of a job."""
        return self.seconds[job.folder]


@dataclass(frozen=True)
class Measuring:
    """The measurements of an estimate."""

    seconds: float | None = None
    """Seconds of a measurement of steps. None: 2, or 3 on a GPU."""
    budget: float = BUDGET
    """Seconds after which only one kind of steps for each encoder is measured, and the others are derived."""
    start_up: Callable[[Path, str], float | None] = start_up_seconds
    side_by_side: Callable[..., float | None] = side_by_side_seconds


def estimate(
    plan: Plan, jobs: int = 1, console: Console | None = None, measuring: Measuring | None = None
) -> Estimate:
    """Return the time that a plan takes on this machine, from measured steps.

    Each kind of steps that the plan needs is trained end to end for a few seconds, unless a run of the plan
    has recorded its time on this machine.

    Args:
        plan: the plan.
        jobs: number of runs side by side.
        console: shows the progress, or None for no output.
        measuring: how the steps are measured. None: the default.
    """
    load = os.getloadavg()[0]
    unfinished = [job for job in plan.jobs if not job.finished]
    # A kind of steps is measured with the configuration of the first job, so those with shards come first.
    by_data = sorted(unfinished, key=lambda job: Manifest.read(job.config.data.dir) is None)
    works = {job.folder: job_work(job) for job in by_data}
    work = [part for parts in works.values() for part in parts or ()]
    with (
        tempfile.TemporaryDirectory(prefix="fasticcl-estimate-") as folder,
        (console or Console(quiet=True)).status("estimating the time") as status,
    ):
        measured = _measure(plan, work, jobs, Path(folder), measuring or Measuring(), status.update)
    remaining: dict[Path, float | None] = {job.folder: 0.0 for job in plan.jobs}
    for path, parts in works.items():
        seconds = None if parts is None else measured.times.seconds(parts)
        if seconds is not None:
            seconds = seconds * (measured.slowdown or 1.0) + (measured.start_up or 0.0)
        remaining[path] = seconds
    return Estimate(
        remaining,
        makespan(plan.jobs, remaining, jobs),
        jobs,
        device_name(plan),
        measured.start_up,
        measured.slowdown,
        [*_notes_of_steps(work, measured.times, load), *_notes_of_runs(measured, jobs)] if unfinished else [],
    )


@dataclass(frozen=True)
class _Measurements:
    times: StepTimes
    start_up: float | None = None
    slowdown: float | None = None


def _measure(
    plan: Plan,
    work: Sequence[Work],
    jobs: int,
    folder: Path,
    measuring: Measuring,
    show_status: Callable[[str], None],
) -> _Measurements:
    """Measure the steps, the start of a run and, with several jobs, a step beside others."""
    unfinished = [job for job in plan.jobs if not job.finished]
    if not unfinished:
        return _Measurements(StepTimes({}))
    histories = [job.run.history for job in plan.jobs if job.run and job.run.history]
    # The metrics do not tell how many runs were trained at the same time.
    known = recorded_times(histories) if jobs == 1 else {}
    times = measure_step_times(
        work,
        folder,
        known=known,
        seconds=measuring.seconds,
        budget=measuring.budget,
        show_status=show_status,
    )
    slowdown = None
    if jobs > 1 and times.known:
        show_status(f"measuring {jobs} runs side by side")
        slots = machine_slots(plan, jobs)[: len(unfinished)]
        kind, alone = next(iter(times.known.items()))
        environments = [slot.environment for slot in slots]
        together = measuring.side_by_side(kind, folder / "processes", environments, slots[0].workers)
        slowdown = together / alone.seconds if together else None
    show_status("measuring the start of a run")
    start_up = measuring.start_up(folder / "start-up", unfinished[0].config.engine.device)
    return _Measurements(times, start_up, slowdown)


def job_work(job: Job) -> list[Work] | None:
    """Return the remaining work of a job, or None if its dataset is unknown."""
    config = job.run.config if job.run else job.config
    sizes = dataset_sizes(config)
    if sizes is None:
        return None
    done: dict[str, int] = {}
    if job.run:
        done = finished_epochs(job.run)
    elif job.first_stage:
        done = {"seed": config.seed_epochs, "representation": config.optim.epochs}
    return run_work(config, sizes, choose_machine(config.engine), done)


def finished_epochs(run: ExistingRun) -> dict[str, int]:
    """Return the number of finished epochs of a run by stage."""
    records = {(record["stage"], record["epoch"]) for record in read_epochs(run.folder)}
    return {stage: sum(name == stage for name, _ in records) for stage in STAGES}


def makespan(jobs: Sequence[Job], seconds: Mapping[Path, float | None], workers: int) -> float:
    """Return the seconds until all jobs are finished, if each worker always takes the first ready job.

    A job is ready when the jobs that it continues or needs are finished. Unknown times count as 0.

    Args:
        jobs: the jobs in the order of the plan.
        seconds: the seconds of each job by its folder.
        workers: number of jobs side by side.
    """
    waiting = list(jobs)
    unfinished = {job.folder for job in jobs}
    running: list[tuple[float, Path]] = []
    now = 0.0
    while waiting or running:
        ready = (job for job in waiting if not unfinished & {job.first_stage, *job.after})
        job = next(ready, None) if len(running) < workers else None
        if job:
            waiting.remove(job)
            heapq.heappush(running, (now + (seconds[job.folder] or 0.0), job.folder))
        elif running:
            now = running[0][0]
            while running and running[0][0] == now:
                unfinished.remove(heapq.heappop(running)[1])
        else:
            break  # the rest waits for one another
    return now


def device_name(plan: Plan) -> str:
    """Return the device on which a plan is trained, in words."""
    if plan.jobs and choose_machine(plan.jobs[0].config.engine).gpu is not None:
        return torch.cuda.get_device_name()
    cores = usable_cores()
    return f"{cores} core{'' if cores == 1 else 's'} of {cpu_model()}"


def _notes_of_steps(work: Sequence[Work], times: StepTimes, load: float) -> Iterator[str]:
    """Yield sentences that say how the times of steps were obtained.

    Args:
        work: the work of all runs.
        times: the times.
        load: load average before the measurements.
    """
    kinds = {part.kind for part in work}
    used = {kind: time for kind, time in times.known.items() if kind in kinds}
    measured = [time for time in used.values() if time.source == "measured"]
    counts = {
        "measured end to end": len(measured),
        "from the metrics of runs on this machine": len(used) - len(measured),
        "derived from another kind by its number of forward passes": len(kinds) - len(used),
    }
    found = [f"{count} {how}" for how, count in counts.items() if count]
    if found:
        yield f"{len(kinds)} kinds of steps: {', '.join(found)}"
    if synthetic := {kind.config.data.dataset for kind, time in used.items() if time.synthetic}:
        yield f"measured with synthetic images, because there are no shards: {', '.join(sorted(synthetic))}"
    if reduced := {time.batch_size for time in measured if time.batch_size}:
        sizes = ", ".join(map(str, sorted(reduced)))
        yield f"measured with batches of {sizes} images, because a CPU takes minutes for those of the runs"
    for kind, reason in times.failures.items():
        yield f"{kind.describe()}: {reason}"
    if measured and load > QUIET:
        yield f"the machine was not idle, which makes the estimate longer: load average {load:.1f}"


def _notes_of_runs(measured: _Measurements, jobs: int) -> Iterator[str]:
    """Yield sentences about runs side by side, and about the time of runs outside their steps."""
    if measured.slowdown is not None:
        factor = f"{measured.slowdown:.1f}"
        yield f"{jobs} runs side by side: a step takes {factor} times as long as alone (measured)"
    elif jobs > 1:
        yield f"{jobs} runs side by side are assumed not to slow one another, because this was not measured"
    if measured.start_up is not None:
        yield f"the start and the end of a run take {measured.start_up:.0f} s (measured) and are included"
    yield "not included: checkpoints, and on a GPU compilation and the trial of its modes"
