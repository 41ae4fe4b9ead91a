"""Benchmark results that survive a kill: one line of JSON per row, on disk before the next row starts."""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Figures = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    seconds: float
    """Estimated duration on an H100."""
    measure: Callable[[], Figures]
    kind: str = ""
    """The last row of the same part and kind gives the estimate of the next. Empty: no row is similar."""


class Rows:
    """Appends rows to a file of JSON lines and checks the deadline of the benchmark.

    Args:
        file: the file.
        budget: seconds after which no row starts.
        clock: returns the time in seconds.
        began: the time at which another process started this benchmark. Its rows are kept. None: now, and an
            existing file is renamed.
    """

    def __init__(
        self,
        file: Path,
        budget: float,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file, self.clock, self.budget = file, clock, budget
        self.began = clock() if began is None else began
        if began is None:
            create_file(file)

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
        content = self.file.read_bytes()
        # A killed process may have left an incomplete line.
        start = "" if not content or content.endswith(b"\n") else "\n"
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(f"{start}{json.dumps(line)}\n")
            file.flush()
            os.fsync(file.fileno())


def create_file(file: Path) -> None:
    """Create an empty file. A file with rows is renamed to the first free name ``STEM-N.jsonl``."""
    if file.exists() and file.stat().st_size:
        number = 1
        while (earlier := file.with_stem(f"{file.stem}-{number}")).exists():
            number += 1
        file.rename(earlier)
    file.write_bytes(b"")


def read_rows(file: Path) -> list[dict[str, Any]]:
    """Return the rows of a file, without lines that a killed process left incomplete."""
    rows = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
