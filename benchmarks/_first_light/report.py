"""The report of a check: figures, failures and skipped parts, sent to the supervisor as they are added."""

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_DALI_HEADER = "Critical error in pipeline:"
_DALI_CAUSE = "encountered:"
_LONGEST = 300  # characters of an error in a row


class Skipped(Exception):
    """A check or a part of it does not apply to this device. The message is the reason."""


class Report:
    """Collects the results of a check.

    Args:
        send: called with the state of the report after every change.
    """

    def __init__(self, send: Callable[[Mapping[str, Any]], None] = lambda _: None) -> None:
        self.figures: dict[str, Any] = {}
        self.failures: list[str] = []
        self.failed_parts: set[str] = set()
        self.skipped: dict[str, str] = {}
        self.note = ""
        """Headline figures for the summary."""
        self._send, self._part = send, ""

    def add(self, name: str, value: Any) -> None:
        """Add a figure or a table of figures."""
        self.figures[name] = value
        self._send(self.state())

    def expect(self, holds: bool, failure: str) -> None:
        """Record a failure unless a condition holds. The check continues."""
        if not holds:
            self.failures.append(failure)
            self.failed_parts |= {self._part} - {""}
            self._send(self.state())

    def skip(self, part: str, reason: str) -> None:
        """Record that a part of the check does not run here."""
        self.skipped[part] = reason
        self._send(self.state())

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Run a part of the check. An exception is recorded as a failure, and the next part runs."""
        self._part = name
        self._send(self.state())
        try:
            yield
        except Skipped as reason:
            self.skip(name, str(reason))
        except Exception as error:
            traceback.print_exc()
            self.expect(False, f"{name}: {describe(error)}")
        self._part = ""

    def state(self) -> dict[str, Any]:
        """Return everything reported so far, and the part that is running."""
        return {
            "failures": [*self.failures],
            "failed_parts": [*self.failed_parts],
            "skipped": {**self.skipped},
            "figures": {**self.figures},
            "part": self._part,
            "note": self.note,
        }


def describe(error: BaseException) -> str:
    """Return the type and the first line of an error, and the line of this repository that raised it.

    The first line of every DALI error is the same. The cause follows further down.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0] if lines else ""
    if text == _DALI_HEADER and len(lines) > 1:
        causes = [number for number, line in enumerate(lines[:-1]) if line.endswith(_DALI_CAUSE)]
        text = lines[causes[0] + 1 if causes else 1]
    where = place(error)
    return f"{type(error).__name__}: {text[:_LONGEST]}" + (f" ({where})" if where else "")


def place(error: BaseException) -> str:
    """Return file and line of the innermost frame in this repository, preferably in the package."""
    return innermost(traceback.extract_tb(error.__traceback__))


def innermost(frames: traceback.StackSummary) -> str:
    """Return file and line of the innermost frame in the package, or else in the benchmarks."""
    for folder in ("fasticcl", "benchmarks"):
        for frame in reversed(frames):
            path = Path(frame.filename)
            if path.is_relative_to(ROOT / folder):
                return f"{path.relative_to(ROOT)}:{frame.lineno}"
    return ""
