"""What a person sees while a run goes on: a live bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fasticcl.console import print_lines
from fasticcl.data.plan import Phase
from fasticcl.engine.evaluate import METRICS

_ESTIMATED_AFTER = 50  # steps
_QUIET_SECONDS = 60  # without a terminal, a long epoch reports at this interval
RELATIVE_COST: Mapping[Phase, float] = {"warmup": 1.0, "interpolative": 2.0, "rebalance": 0.5}
"""What a step of a phase costs until one was measured: passes with gradient, a frozen encoder's for half."""
_SKIPPED = 2  # first steps of a phase, in which pipelines fill and kernels are chosen or compiled


class TimeEstimate:
    """The seconds that are left, by phase: each is counted at its own pace, evaluations with it.

    Args:
        steps: steps of the whole run by phase, in order.
        done: steps that earlier processes took.
    """

    def __init__(self, steps: Mapping[Phase, int], done: int = 0) -> None:
        self.left = dict(steps)
        for phase, count in self.left.items():
            taken = min(done, count)
            self.left[phase] -= taken
            done -= taken
        self._measured: dict[Phase, tuple[int, float]] = {}
        self._phase: Phase | None = None
        self._before, self._skip = 0.0, 0

    def step(self, phase: Phase, now: float) -> None:
        """Count a step that ended ``now`` (seconds)."""
        if phase != self._phase:
            self._phase, self._skip = phase, _SKIPPED
        elif self._skip:
            self._skip -= 1
        else:
            count, seconds = self._measured.get(phase, (0, 0.0))
            self._measured[phase] = (count + 1, seconds + now - self._before)
        self._before = now
        if self.left.get(phase):
            self.left[phase] -= 1

    def seconds(self) -> float | None:
        """Return the seconds that are left; None before anything was measured."""
        if not self._measured:
            return None
        # A phase that has not begun is expected at the pace of the last one that was measured.
        known = list(self._measured)[-1]
        count, total = self._measured[known]
        unit = total / count / RELATIVE_COST[known]
        return sum(left * self._pace(phase, unit) for phase, left in self.left.items())

    def _pace(self, phase: Phase, unit: float) -> float:
        if phase not in self._measured:
            return unit * RELATIVE_COST[phase]
        count, total = self._measured[phase]
        return total / count


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
        self.estimate = TimeEstimate(steps, done)
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
            self.print(f"estimate {self.eta()} to go, after {_ESTIMATED_AFTER} steps")

    def show_step(self, record: Mapping[str, Any], epochs: int, steps: int) -> None:
        """Show the state inside an epoch: a record of the loop's log."""
        place = f"{_place(record, epochs)} step {record['step']}/{steps}"
        state = f"{_losses(record)}  {_speed(record)}  ETA {self.eta()}"
        self._bar.update(self._task, description=place, state=state)
        now = time.monotonic()
        if not self.console.is_terminal and now - self.spoke > _QUIET_SECONDS:
            self.spoke = now
            self.print(f"{place}  {state}")

    def show_epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch."""
        self.spoke = time.monotonic()
        parts = [_place(record, epochs), _losses(record), _accuracy(record), _speed(record)]
        self.print("  ".join([*parts, f"ETA {self.eta()}"]))

    def print(self, text: str) -> None:
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
