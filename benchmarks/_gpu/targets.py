"""Targets of the benchmark on one H100 or H200, and whether a result meets them."""

from collections.abc import Mapping, Sequence
from typing import Any

Lines = Mapping[tuple[str, str], Mapping[str, Any]]
"""Lines of a result by part and row."""
# Title, part, row, figure, and the smallest value that meets the target.
_AT_LEAST = (
    ("end to end, forward images/s", "end to end, images/s", 3000.0),
    ("end to end / step on a synthetic batch", "end to end / step", 0.97),
    ("loader alone / step", "loader / step", 3.0),
)
_STEP = "ours / research code"
_SECONDS = 90.0


def targets(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """Return target, goal, measured median and met, missed or unmeasured of each target."""
    lines = {(line["part"], line["row"]): line for line in rows}
    found = []
    for phase in ("interpolative", "warmup"):
        for title, figure, goal in _AT_LEAST:
            value = median(lines, "resnet50", f"end to end, {phase}", figure)
            found.append(verdict(f"ResNet-50, {phase}: {title}", "at least", goal, value))
    value = median(lines, "peers", "step and research code", _STEP)
    found.append(verdict("ResNet-50: step / step of research code", "at least", 3.0, value))
    cifar = lines.get(("cifar", "seed 0"), {})
    seconds = cifar.get("wall, s")
    if seconds is None and cifar.get("stopped after, s", 0) > _SECONDS:
        seconds = cifar["stopped after, s"]
    found.append(verdict("CIFAR-100-LT, 200 + 10 epochs: seconds", "below", _SECONDS, seconds))
    return found


def median(lines: Lines, part: str, row: str, figure: str) -> float | None:
    measured = lines.get((part, row), {}).get(figure)
    return None if measured is None else measured["median"]


def verdict(title: str, relation: str, goal: float, value: float | None) -> dict[str, str]:
    if value is None:
        result = "unmeasured"
    else:
        result = "met" if (value >= goal if relation == "at least" else value < goal) else "missed"
    shown = "" if value is None else f"{value:,.4g}"
    return {"target": title, "goal": f"{relation} {goal:,g}", "measured": shown, "result": result}
