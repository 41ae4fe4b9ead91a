"""Progress of a run: a live bar on a terminal, otherwise plain lines."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from fasticcl.config import Config
from fasticcl.console import print_lines
from fasticcl.data.plan import Phase
from fasticcl.data.sampling import class_probabilities
from fasticcl.engine.evaluate import METRICS, is_evaluated
from fasticcl.method.translation import translation_cost

_STEPS_BEFORE_ESTIMATE = 50
_LINE_INTERVAL = 60  # seconds between two lines within an epoch without a terminal
RELATIVE_COST: Mapping[Phase, float] = {
    "warmup": 1.0,
    "interpolative": 2.0,
    "rebalance": 0.5,
    "translation": 12.0,
}
"""Assumed cost of a step until its phase is measured: forward passes with gradient, 0.5 without gradient.

That of ``translation`` is for a batch whose images are nearly all translated, see `phase_costs`.
"""
_SKIPPED_STEPS = 2  # at the start of a phase, while pipelines fill and kernels are selected or compiled


def phase_costs(config: Config, counts: NDArray[np.integer]) -> dict[Phase, float]:
    """Return the assumed costs of a step of each phase for a configuration and the sizes of its classes.

    Args:
        config: the effective configuration.
        counts: [K] training images per class.
    """
    drawn = class_probabilities(counts, config.data.resample_gamma)
    return {**RELATIVE_COST, "translation": translation_cost(counts, drawn, config.method).relative}


class TimeEstimate:
    """Estimate of the remaining seconds from the mean step time of each phase, evaluations included.

    Args:
        steps: steps of the whole run by phase, in order.
        done: steps taken by earlier processes.
        costs: assumed costs of a step of each phase.
    """

    def __init__(
        self, steps: Mapping[Phase, int], done: int = 0, costs: Mapping[Phase, float] = RELATIVE_COST
    ) -> None:
        self.left, self._costs = dict(steps), costs
        for phase, count in self.left.items():
            finished = min(done, count)
            self.left[phase] -= finished
            done -= finished
        self._measured: dict[Phase, tuple[int, float]] = {}
        self._phase: Phase | None = None
        self._previous, self._skip = 0.0, 0

    def step(self, phase: Phase, now: float) -> None:
        """Count a step that ended at the time ``now``, in seconds."""
        if phase != self._phase:
            self._phase, self._skip = phase, _SKIPPED_STEPS
        elif self._skip:
            self._skip -= 1
        else:
            count, seconds = self._measured.get(phase, (0, 0.0))
            self._measured[phase] = (count + 1, seconds + now - self._previous)
        self._previous = now
        if self.left.get(phase):
            self.left[phase] -= 1

    def seconds(self) -> float | None:
        """Return the remaining seconds, or None before the first measurement."""
        if not any(self.left.values()):
            return 0.0
        if not self._measured:
            return None
        # The step time of a phase that has not begun is derived from the last measured phase.
        measured = list(self._measured)[-1]
        count, total = self._measured[measured]
        unit = total / count / self._costs[measured]
        return sum(left * self._step_time(phase, unit) for phase, left in self.left.items())

    def _step_time(self, phase: Phase, unit: float) -> float:
        if phase not in self._measured:
            return unit * self._costs[phase]
        count, total = self._measured[phase]
        return total / count


class Display:
    """Display of the epochs and steps of a run.

    Args:
        console: the rich console.
        steps: steps of the whole run by phase, in order.
        done: steps taken by earlier processes.
        costs: assumed costs of a step of each phase.
    """

    def __init__(
        self,
        console: Console,
        steps: Mapping[Phase, int],
        done: int = 0,
        costs: Mapping[Phase, float] = RELATIVE_COST,
    ) -> None:
        self.console, self.done, self.start = console, done, done
        self.total = sum(steps.values())
        self.phase = next(iter(steps))
        self.estimate = TimeEstimate(steps, done, costs)
        self._last_line = time.monotonic()
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
        """Count a step of the phase. Print an estimate of the remaining time after 50 steps."""
        self.done += 1
        self.estimate.step(self.phase, time.monotonic())
        self._bar.update(self._task, completed=self.done)
        if self.done - self.start == _STEPS_BEFORE_ESTIMATE and self.done < self.total:
            self.print(f"estimate {self.eta()} left, after {_STEPS_BEFORE_ESTIMATE} steps")

    def show_step(self, record: Mapping[str, Any], epochs: int, steps: int) -> None:
        """Show a log record within an epoch, on the bar or as a line."""
        position = f"{_position(record, epochs)} step {record['step']}/{steps}"
        state = f"{_losses(record)}  {_speed(record)}  ETA {self.eta()}"
        self._bar.update(self._task, description=position, state=state)
        now = time.monotonic()
        if not self.console.is_terminal and now - self._last_line > _LINE_INTERVAL:
            self._last_line = now
            self.print(f"{position}  {state}")

    def show_epoch(self, record: Mapping[str, Any], epochs: int) -> None:
        """Print the line of a finished epoch, with its accuracies if it was evaluated."""
        self._last_line = time.monotonic()
        accuracy = [_accuracy(record)] if is_evaluated(record) else []
        parts = [_position(record, epochs), _losses(record), *accuracy, _speed(record)]
        self.print("  ".join(part for part in [*parts, f"ETA {self.eta()}"] if part))

    def print(self, text: str) -> None:
        """Print a line above the bar."""
        print_lines(self.console, [text])

    def eta(self) -> str:
        """Return the estimated remaining time as ``h:mm:ss`` or ``m:ss``, or ``-`` if it is unknown."""
        left = self.estimate.seconds()
        if left is None:
            return "-"
        seconds = round(left)
        hours, minutes = divmod(seconds // 60, 60)
        return f"{hours}:{minutes:02d}:{seconds % 60:02d}" if hours else f"{minutes}:{seconds % 60:02d}"


def percent(value: float | None) -> str:
    """Return an accuracy as text with one decimal, or ``-`` for None."""
    return "-" if value is None else f"{value:.1f}"


def _position(record: Mapping[str, Any], epochs: int) -> str:
    phase = "seed network" if record["stage"] == "seed" else record["phase"]
    return f"{phase:<13} epoch {record['epoch']:>{len(str(epochs))}}/{epochs}"


def _losses(record: Mapping[str, Any]) -> str:
    parts = [(key.removeprefix("train/"), value) for key, value in record.items() if key.startswith("train/")]
    return " ".join(f"{name} {value:.3f}" for name, value in parts)


def _accuracy(record: Mapping[str, Any]) -> str:
    return " ".join(f"{name.removeprefix('val/')} {percent(record[name])}" for name in METRICS)


def _speed(record: Mapping[str, Any]) -> str:
    if "throughput/images_per_sec" not in record:  # an epoch without steps
        return ""
    return f"{record['throughput/images_per_sec']:.0f} images/s wait {record['time/data_wait_pct']:.0f}%"
