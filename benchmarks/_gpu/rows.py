"""Benchmark results that survive a kill: one line of JSON per row, on disk before the next row starts."""

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class Rows:
    """Appends rows to a file of JSON lines and checks the deadline of the benchmark.

    Args:
        file: the file. An existing file is replaced.
        budget: seconds after which no row starts.
        clock: returns the time in seconds.
    """

    def __init__(self, file: Path, budget: float, clock: Callable[[], float] = time.monotonic) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.clock, self.began, self.budget = clock, clock(), budget
        self._file = open(file, "w", encoding="utf-8")  # noqa: SIM115  open until the process ends

    @property
    def elapsed(self) -> float:
        """Seconds since the start of the benchmark."""
        return self.clock() - self.began

    def has_time(self, seconds: float = 0.0) -> bool:
        """Return True if a row that takes this many seconds would end before the deadline."""
        return self.elapsed + seconds < self.budget

    def write(self, part: str, row: str, figures: Mapping[str, Any]) -> None:
        """Append a row, and return when it is on disk."""
        line = {"part": part, "row": row, "at": round(self.elapsed, 1), **figures}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, without an incomplete last line."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows
