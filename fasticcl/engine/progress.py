"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fasticcl.console import print_lines
from fasticcl.data.plan import Phase
from fasticcl.engine.estimate import Estimate
from fasticcl.engine.evaluate import METRICS

_ESTIMATED_AFTER = 50  # steps
_QUIET_SECONDS = 60  # without a terminal, a long epoch reports at this interval


class Display:
    """Shows epochs and steps of a run.

    Args:
        console: where to.
        steps: steps of the whole run by phase, in order.
        done: steps that earlier processes took.
    """

    def __init__(self, console: Console, steps: Mapping[Phase, int], done: int = 0) -> None:
        self.console, self.done, self.start = console, done, done
        self.total = sum(steps.values())
        self.phase = next(iter(steps))
        self.estimate = Estimate(steps, done)
        self.spoke = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("starting", total=self.total, completed=done, state="")

    def __enter__(self) -> "Display":
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def step(self) -> None:
        """Count a step of the phase; after 50 of them say how long the run will take."""
        self.done += 1
        self.estimate.step(self.phase, time.monotonic())
        self._bar.update(self._task, completed=self.done)
        if self.done - self.start == _ESTIMATED_AFTER and self.done < self.total:
            self.line(f"estimate {self.eta()} to go, after {_ESTIMATED_AFTER} steps")

    def running(self, record: Mapping[str, Any], epochs: int, steps: int) -> None:
        """Show the state inside an epoch: a record of the loop's log."""
        place = f"{_place(record, epochs)} step {record['step']}/{steps}"
        state = f"{_losses(record)}  {_speed(record)}  ETA {self.eta()}"
        self._bar.update(self._task, description=place, state=state)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoke > _QUIET_SECONDS:
            self.spoke = now
            self.line(f"{place}  {state}")

    def epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch."""
        self.spoke = time.monotonic()
        parts = [_place(record, epochs), _losses(record), _accuracy(record), _speed(record)]
        self.line("  ".join([*parts, f"ETA {self.eta()}"]))

    def line(self, text: str) -> None:
        """Print a line above the bar."""
        print_lines(self.console, [text])

    def eta(self) -> str:
        """Return the time that is left, as the steps so far have gone."""
        left = self.estimate.seconds()
        if left is None:
            return "-"
        seconds = round(left)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def percent(value: float | None) -> str:
    """Return an accuracy as it is shown, a dash where there is none."""
    return "-" if value is None else f"{value:.1f}"


def _place(record: Mapping[str, Any], epochs: int) -> str:
    return f"{record['phase']:<13} epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"


def _losses(record: Mapping[str, Any]) -> str:
    parts = [(key.removeprefix("train/"), value) for key, value in record.items() if key.startswith("train/")]
    return " ".join(f"{name} {value:.3f}" for name, value in parts)


def _accuracy(record: Mapping[str, Any]) -> str:
    return " ".join(f"{name.removeprefix('val/')} {percent(record[name])}" for name in METRICS)


def _speed(record: Mapping[str, Any]) -> str:
    return f"{record['throughput/images_per_sec']:.0f} images/s wait {record['time/data_wait_pct']:.0f}%"
