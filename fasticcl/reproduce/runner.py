"""Training of the runs of a plan: each in a subprocess, several side by side."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from fasticcl.console import print_lines
from fasticcl.engine.progress import percent
from fasticcl.engine.run.folder import CONFIG, RunFolder
from fasticcl.engine.run.lock import is_locked
from fasticcl.errors import Stopped, UserError
from fasticcl.report.run_history import read_history
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.run_key import run_key
from fasticcl.reproduce.training.commands import command_words
from fasticcl.reproduce.training.run_process import RunProcess
from fasticcl.reproduce.training.slots import Slot, machine_slots
from fasticcl.system.signals import StopRequest

LOGS = "logs"
"""Folder of the logs in a project."""
_POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Failure:
    """A run that could not be finished."""

    job: Job
    reason: str
    """The first line of the error, or the run that is missing."""
    log: Path | None = None
    """The output of the run. None: it was not started."""
    command: str = ""
    """The command that failed. It can be repeated by hand."""


def run_plan(
    plan: Plan, jobs: int | None = None, console: Console | None = None, command: str = ""
) -> list[Failure]:
    """Train the unfinished runs of a plan and return those that failed or were passed over.

    Each run is a subprocess of the command line, so a crash affects no other run. Its output is written to
    ``<project>/logs/<dataset>/<name>.log``. A run that another process trains is waited for.

    Args:
        plan: the runs.
        jobs: number of runs that are trained at the same time. None: one for each GPU, or one on a CPU.
        console: shows the progress, or None for no output.
        command: command that continues the plan, for `Stopped`.

    Raises:
        Stopped: a signal was received, and all runs have saved their state.
        UserError: a log cannot be written.
    """
    slots = machine_slots(plan, jobs)
    with StopRequest() as stop, _Display(console or Console(quiet=True), plan) as display:
        runner = _Runner(plan, slots, display)
        try:
            while runner.step() and not stop.signum:
                time.sleep(_POLL_SECONDS)
            if stop.signum:
                runner.stop()
                raise Stopped(stop.signum, command)
        except UserError:  # the disk is full, for example
            runner.stop()
            raise
        except BaseException:  # a second Ctrl-C, for example
            runner.kill()
            raise
    return runner.failures


class _Display:
    """One line for each event, and a progress bar on a terminal."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self.console, self.total = console, len(plan.jobs)
        self.finished = sum(job.finished for job in plan.jobs)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("runs"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("", total=self.total, completed=self.finished)

    def __enter__(self) -> "_Display":
        if self.finished:
            self.line(f"kept     {self.finished} of {self.total} runs, already finished")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        print_lines(self.console, [text])

    def count(self, running: int, failed: int) -> None:
        """Show how many runs are trained at the moment and how many have failed."""
        text = f"{running} running" + (f", {failed} failed" if failed else "")
        self._bar.update(self._task, description=text)

    def finish(self, job: Job, seconds: float) -> None:
        """Show that a run is finished, with its accuracy and duration."""
        self.finished += 1
        self._bar.update(self._task, completed=self.finished)
        duration = timedelta(seconds=round(seconds))
        counted = f"{self.finished}/{self.total}"
        self.line(f"done     {_title(job)}  {_accuracy(job)} %  in {duration}  ({counted} runs)")

    def fail(self, failure: Failure) -> None:
        """Show why a run has failed or was passed over."""
        if failure.log is None:
            self.line(f"skipped  {_title(failure.job)}: {failure.reason}")
            return
        self.line(f"failed   {_title(failure.job)}: {failure.reason}")
        self.line(f"         log      {failure.log}")
        self.line(f"         command  {failure.command}")


class _Runner:
    """Starts each job as soon as a slot is free and the runs that it needs are finished."""

    def __init__(self, plan: Plan, slots: Sequence[Slot], display: _Display) -> None:
        self.display = display
        self.pending = [job for job in plan.jobs if not job.finished]
        self.free, self.running = [*slots], list[RunProcess]()
        self.failures: list[Failure] = []
        self._awaited: set[Path] = set()

    def step(self) -> bool:
        """Collect the processes that have ended, start others, and return False if nothing is left."""
        self._collect()
        for job in [*self.pending]:
            self._consider(job)
        self.display.count(len(self.running), len(self.failures))
        return bool(self.pending or self.running)

    def stop(self) -> None:
        """Let all runs save their state, and wait for their end."""
        if self.running:
            self.display.line(f"stopping: {', '.join(_title(process.job) for process in self.running)}")
        for process in self.running:
            process.stop()
        while any(process.poll() is None for process in self.running):
            time.sleep(_POLL_SECONDS)
        for process in self.running:
            if process.poll() == 0:
                self.display.finish(process.job, process.seconds)
        self.running.clear()

    def kill(self) -> None:
        """End all processes at once."""
        for process in self.running:
            process.kill()

    def _collect(self) -> None:
        for process in [*self.running]:
            code = process.poll()
            if code is None:
                continue
            self.running.remove(process)
            self.free.append(process.slot)
            if code == 0 and _is_finished(process.job):
                self.display.finish(process.job, process.seconds)
                continue
            if code and self._is_trained_elsewhere(process.job):  # another process has started it first
                self.pending.insert(0, process.job)
                continue
            reason = process.error() if code else "ended without the planned result"
            self._fail(Failure(process.job, reason, process.log, process.command))

    def _consider(self, job: Job) -> None:
        """Start a job if it is possible now, and pass it over if it never is."""
        if failed := [each.job for each in self.failures if each.job.folder in job.after]:
            self.pending.remove(job)
            self._fail(Failure(job, f"needs {', '.join(map(_title, failed))}"))
            return
        unfinished = {other.folder for other in [*self.pending, *(each.job for each in self.running)]}
        if not self.free or unfinished.intersection(job.after) or self._is_trained_elsewhere(job):
            return
        self.pending.remove(job)
        if _is_finished(job):  # another process has trained it in the meantime
            self.display.finish(job, 0)
        else:
            self._start(job)

    def _start(self, job: Job) -> None:
        slot = self.free.pop(0)
        logs = job.config.engine.project / LOGS / job.folder.parent.name
        try:
            words = command_words(job, logs / f"{job.folder.name}.toml", slot.workers)
            process = RunProcess(job, words, slot, logs / f"{job.folder.name}.log")
        except UserError as error:
            self.free.append(slot)
            self._fail(Failure(job, str(error)))
            return
        except OSError as error:
            raise UserError(
                f"Cannot write into {logs}: {error.strerror}. Choose another --project."
            ) from None
        self.display.line(f"{'resumed' if words[-1] == '--resume' else 'started':<8} {_title(job)}")
        self.running.append(process)

    def _is_trained_elsewhere(self, job: Job) -> bool:
        if not ((job.folder / CONFIG).is_file() and is_locked(job.folder)):
            return False
        if job.folder not in self._awaited:
            self._awaited.add(job.folder)
            self.display.line(f"waiting  {_title(job)}, which another process trains")
        return True

    def _fail(self, failure: Failure) -> None:
        self.failures.append(failure)
        self.display.fail(failure)


def _title(job: Job) -> str:
    return f"{job.folder.parent.name}/{job.folder.name}"


def _accuracy(job: Job) -> str:
    return percent(read_history(job.folder).final_accuracies["val/top1"])


def _is_finished(job: Job) -> bool:
    try:
        history = read_history(job.folder)
    except UserError:  # there is no such run, or it has no evaluated epoch
        return False
    is_planned = run_key(history.config) == run_key(job.config)
    return is_planned and history.finished and RunFolder(job.folder, history.config).finished
