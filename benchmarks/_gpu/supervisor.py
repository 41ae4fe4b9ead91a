"""Supervision of the process of `gpu.py` that measures: rows that crash it or hang, and the deadline.

This module and `summary.py` import neither torch nor DALI.
"""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _gpu.rows import Rows, create_file, read_rows

HEADER = "header"
"""Part of the first line, which lists the planned rows."""
RESTART = 75
"""Exit code of a worker whose device no longer works, after it has written the line of the failed row."""
_POLL = 0.1  # seconds
_EXIT = 10.0  # seconds to wait for a killed process, which the driver may block
_START = 120.0  # seconds until the first line
_PATIENCE = 90.0  # seconds that a row may take in addition to twice its estimated duration
_WORTH_STARTING = 20.0  # seconds left. A new worker needs about that long for imports.


@dataclass(frozen=True)
class Task:
    """Options of the benchmark."""

    file: Path
    """Lines of the rows."""
    folder: Path
    """Folder for temporary files."""
    device: str
    small: bool
    only: Sequence[str]
    cifar: Path | None
    budget: float
    """Seconds until the benchmark ends."""
    began: float
    """Start of the benchmark on the clock `time.monotonic`, which all processes of a machine share."""
    whole_images: bool = False
    """If True, no regions of images are decoded."""


def supervise(command: Sequence[str], task: Task) -> None:
    """Run workers until every row has a line or the budget is spent.

    A worker that crashes or hangs is replaced by another one, which continues with the next row. The line of
    its row then contains the reason.
    """
    create_file(task.file)
    while True:
        reason, code = watch(command, task)
        lines = read_rows(task.file)
        waiting = pending(lines)
        if not lines or not waiting:
            return
        rows = Rows(task.file, task.budget, began=task.began)
        if code != RESTART:
            part, row, _ = waiting[0]
            rows.write(part, row, {"failed": reason})
            print(f"{rows.elapsed:5.0f} s  {part}: {row}  FAILED: {reason}", flush=True)
        if not rows.has_time(_WORTH_STARTING):
            return


def watch(command: Sequence[str], task: Task) -> tuple[str, int | None]:
    """Run a worker and kill it if it hangs and at the deadline. Return the reason and exit code."""
    worker = subprocess.Popen(command, start_new_session=True)
    try:
        seen, last = 0, time.monotonic()
        while (code := worker.poll()) is None:
            time.sleep(_POLL)
            now, lines = time.monotonic(), read_rows(task.file)
            if len(lines) > seen:
                seen, last = len(lines), now
            limit = patience(lines)
            if now - last > limit:
                return f"no result after {limit:.0f} s", None
            if now - task.began > task.budget:
                return "stopped at the deadline", None
    finally:
        with suppress(ProcessLookupError):
            os.killpg(worker.pid, signal.SIGKILL)  # with its data loader workers
        with suppress(subprocess.TimeoutExpired):
            worker.wait(_EXIT)
    cause = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
    return f"the process ended with {cause}", code


def patience(lines: list[dict[str, Any]]) -> float:
    """Return the seconds that the row in progress may take."""
    waiting = pending(lines)
    return _PATIENCE + 2 * waiting[0][2] if waiting else _START


def pending(lines: list[dict[str, Any]]) -> list[tuple[str, str, float]]:
    """Return part, name and estimated seconds of the planned rows without a line, in order."""
    done = {(line["part"], line["row"]) for line in lines}
    plan = lines[0]["plan"] if lines else []
    return [(part, row, seconds) for part, row, seconds in plan if (part, row) not in done]
