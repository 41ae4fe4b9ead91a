"""What a benchmark found: as JSON, as tables for a terminal, and as a page to paste in an issue."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from fasticcl.bench.measure import Measurement, shown
from fasticcl.version import __version__

FORMAT = 1


@dataclass(frozen=True)
class Result:
    """The figures of one call of ``fasticcl bench``, and all that they depend on."""

    settings: Mapping[str, Any]
    images: Mapping[str, Any]
    measured: Mapping[str, Measurement]
    """By what and phase: ``loader interpolative``."""
    parts: Mapping[str, Measurement] = field(default_factory=dict)
    """Of a training step, from the pass that waits for the device."""
    notes: tuple[str, ...] = ()
    """What a reader must know of how it was measured."""
    binds: str | None = None
    """Which part of training does: loader, step or both."""
    advice: str | None = None
    """A sentence that says so and what to change."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""

    def joined(self, other: "Result") -> "Result":
        """Return this result with the figures and notes of another."""
        return replace(self, measured={**self.measured, **other.measured}, notes=self.notes + other.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {
            "benchmark": self.what,
            "format": FORMAT,
            "fasticcl": __version__,
            "hardware": dict(self.hardware),
            "settings": dict(self.settings),
            "images": dict(self.images),
            "notes": list(self.notes),
            "measured": {name: each.to_dict() for name, each in self.measured.items()},
            "parts": {name: each.to_dict() for name, each in self.parts.items()},
            "binds": self.binds,
            "advice": self.advice,
        }


def tables(result: Result) -> Iterator[Table]:
    """Yield the table of the rates and, where there are any, that of the parts."""
    for title, header, rows in _contents(result):
        table = Table(header[0], title=title, title_justify="left")
        for column in header[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        yield table


def page(result: Result) -> str:
    """Return a page in Markdown with hardware, versions, settings, tables, notes and advice."""
    lines = [f"## fasticcl {__version__}: bench {result.what}", ""]
    for title, values in (
        ("hardware", result.hardware),
        ("settings", result.settings),
        ("images", result.images),
    ):
        lines.append(f"- {title}: {', '.join(_described(name, value) for name, value in values.items())}")
    for title, header, rows in _contents(result):
        lines += ["", f"**{title}**", "", _line(header), _line(["---", *["---:"] * (len(header) - 1)])]
        lines += [_line(row) for row in rows]
    if result.advice:
        lines += ["", result.advice]
    if result.notes:
        lines += ["", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def _contents(result: Result) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    for figures, runs in ((result.measured, "runs"), (result.parts, "steps")):
        if figures:
            count = max(len(each.runs) for each in figures.values())
            unit = next(iter(figures.values())).unit
            rows = [_row(name, each) for name, each in figures.items()]
            yield f"{unit}, {count} {runs}", ["", "median", "min", "max"], rows


def _row(name: str, found: Measurement) -> list[str]:
    return [name, *map(shown, (found.median, found.min, found.max))]


def _described(name: str, value: Any) -> str:
    return f"{name.replace('_', ' ')} {value}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
