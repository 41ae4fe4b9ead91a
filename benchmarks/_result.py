"""What the result of a benchmark consists of: the machine, runs in short, a file."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fasticcl.system.hardware import hardware as machine

__all__ = ["keep", "machine", "spread", "summary"]


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Return runs, median, minimum and maximum as a result holds them."""
    return {
        "runs": [round(value, 3) for value in values],
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def spread(summarised: Mapping[str, Any], digits: int) -> str:
    """Return a `summary` in a few characters."""
    median, low, high = (f"{summarised[key]:.{digits}f}" for key in ("median", "min", "max"))
    return f"{median} ({low} to {high})"


def keep(result: Mapping[str, Any], file: Path | None) -> None:
    """Write a result as JSON; None: do not."""
    if file:
        file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
