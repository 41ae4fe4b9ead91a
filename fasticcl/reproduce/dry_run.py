"""The printed form of a plan: its runs in order, their state and the time that they will take."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from fasticcl.bench.run_work import remaining_epochs
from fasticcl.reproduce.estimate import Estimate, finished_epochs
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.run_key import run_key
from fasticcl.shards.manifest import Manifest

_MAX_LINES = 40  # runs that are listed one by one. The seeds of more runs share a line
_WIDTH, _NAME_WIDTH = 80, 34


def format_seconds(seconds: float | None) -> str:
    """Return a duration with a suitable unit: ``40 s``, ``12 min``, ``9.4 h`` or ``3.1 d``."""
    if seconds is None:
        return "?"
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    hours, days = seconds / 3600, seconds / 86400
    if days < 2:
        return f"{hours:.1f} h"
    return f"{days:.1f} d" if days < 99.95 else f"{days:,.0f} d"


def state(job: Job) -> str:
    """Return the state of a job: finished, running, resumes at an epoch, needs data, or new."""
    if job.finished:
        return "finished"
    if job.running:
        return "running"
    data = job.config.data
    if data.dataset != "demo" and Manifest.read(data.dir) is None:  # training creates the shards of the demo
        return "needs data"
    if job.run is None:
        return "new"
    return f"resumes at {_position(job)}"


def _position(job: Job) -> str:
    """Return the stage and the epoch at which a run is resumed."""
    assert job.run is not None
    config, done = job.run.config, finished_epochs(job.run)
    config = config.shortened() if config.engine.fast_dev_run else config
    names = {"seed": "seed network, ", "representation": "", "rebalancing": "second stage, "}
    for stage, left in remaining_epochs(config, done).items():
        is_readout = stage == "rebalancing" and not config.rebalance.trained_epochs
        if left and not is_readout:
            return f"{names[stage]}epoch {left.start + 1} of {left.stop}"
    return "its end"


def trains(job: Job, lines: Mapping[Path, int]) -> str:
    """Return the rows of a table that a job computes, with the run that it continues.

    Args:
        job: the job.
        lines: the line of each run by its folder. Runs without a line are named.
    """
    if job.first_stage is None:
        return _titles(job)
    line = lines.get(job.first_stage)
    first = job.first_stage.name if line is None else f"run {line}"
    return f"{_titles(job)}: second stage of {first}"


def _titles(job: Job) -> str:
    return ", ".join(dict.fromkeys(cell.row.title for cell in job.cells)) or job.config.method.name


@dataclass(frozen=True)
class PlanLine:
    """One line of a printed plan: a run, or the seeds of one configuration."""

    jobs: Sequence[Job]

    @property
    def name(self) -> str:
        """Dataset and name of the run, or of the first one and the end of the last one."""
        names = [job.folder.name for job in self.jobs]
        name = f"{self.jobs[0].folder.parent.name}/{names[0]}"
        if len(names) == 1:
            return name
        stem = "".join(names[0].rpartition("-")[:2])  # before the seed
        return f"{name}...{names[-1].removeprefix(stem)}"

    @property
    def state(self) -> str:
        """The state of the run, or the number of runs in each state."""
        if len(self.jobs) == 1:
            return state(self.jobs[0])
        counts = Counter(map(state, self.jobs))
        return ", ".join(f"{count} {_plural(name) if count > 1 else name}" for name, count in counts.items())

    def time(self, estimate: Estimate) -> str:
        """Return the estimated time of the runs that are not finished."""
        seconds = [estimate.of(job) for job in self.jobs if not job.finished]
        return format_seconds(_sum(seconds)) if seconds else ""


def _plural(state: str) -> str:
    """Return the state of several runs, such as "need data"."""
    return re.sub(r"^(need|resume)s\b", r"\1", state)


def grouped(plan: Plan) -> list[PlanLine]:
    """Return the lines of a plan. The seeds of a configuration share one if there are more than 40 runs."""
    if len(plan.jobs) <= _MAX_LINES:
        return [PlanLine([job]) for job in plan.jobs]
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in plan.jobs:
        engine = job.config.engine.model_copy(update={"seed": 0})
        key = run_key(job.config.model_copy(update={"engine": engine}))
        groups.setdefault((key, _titles(job)), []).append(job)
    return [*map(PlanLine, groups.values())]


def plan_table(plan: Plan, estimate: Estimate) -> Table:
    """Return a table of the runs in the order in which they are trained."""
    lines = grouped(plan)
    numbers = {job.folder: number for number, line in enumerate(lines, 1) for job in line.jobs}
    table = Table(width=_WIDTH)
    table.add_column("", justify="right")
    table.add_column("run", overflow="fold", width=_NAME_WIDTH)
    table.add_column("trains", overflow="fold")
    table.add_column("state", overflow="fold")
    table.add_column("time", justify="right", no_wrap=True)
    for number, line in enumerate(lines, 1):
        texts = (line.name, trains(line.jobs[0], numbers), line.state)
        table.add_row(str(number), *map(escape, texts), line.time(estimate))
    return table


def plan_lines(plan: Plan, estimate: Estimate, part: tuple[int, int] = (1, 1)) -> Iterator[str]:
    """Yield the number of runs, their time, how it was measured, and the problems of a plan.

    Args:
        plan: the plan, or the part of it that this machine trains.
        estimate: its estimate.
        part: (I, N), if the plan is part I of N.
    """
    yield summary(plan, estimate, part)
    yield from (f"note     {note}" for note in estimate.notes)
    yield from (f"problem  {problem}" for problem in plan.problems)


def summary(plan: Plan, estimate: Estimate, part: tuple[int, int] = (1, 1)) -> str:
    """Return one line such as ``31 runs, 12 finished, 19 to train: 9.4 h on 2 cores of AMD EPYC``."""
    total = len(plan.jobs)
    finished = sum(job.finished for job in plan.jobs)
    left = total - finished
    share = f"part {part[0]} of {part[1]}: " if part[1] > 1 else ""
    runs = f"{share}{total} run{'' if total == 1 else 's'}, {finished} finished"
    if not left:
        return f"{runs}, nothing to train"
    unknown = sum(estimate.of(job) is None for job in plan.jobs)
    time = format_seconds(estimate.total if unknown < left else None)
    side_by_side = f", {estimate.jobs} runs side by side" if estimate.jobs > 1 else ""
    without = f", without {unknown} run{'s' * (unknown > 1)} of unknown time" if 0 < unknown < left else ""
    return f"{runs}, {left} to train: {time} on {estimate.device}{side_by_side}{without}"


def as_dict(plan: Plan, estimate: Estimate, part: tuple[int, int] = (1, 1)) -> dict[str, Any]:
    """Return the plan and its estimate for JSON. Times are in seconds, and null if they are unknown."""
    runs = [
        {
            "run": str(job.folder),
            "seed": job.config.engine.seed,
            "rows": [*dict.fromkeys(cell.row.name for cell in job.cells)],
            "columns": [*dict.fromkeys(cell.column.name for cell in job.cells)],
            "first_stage": str(job.first_stage) if job.first_stage else None,
            "state": state(job),
            "seconds": estimate.of(job),
        }
        for job in plan.jobs
    ]
    return {
        "part": [*part],
        "runs": runs,
        "seconds": estimate.total,
        "jobs": estimate.jobs,
        "device": estimate.device,
        "start_up_seconds": estimate.start_up,
        "notes": [*estimate.notes],
        "problems": [*plan.problems],
    }


def _sum(seconds: Sequence[float | None]) -> float | None:
    known = [value for value in seconds if value is not None]
    return sum(known) if len(known) == len(seconds) else None
