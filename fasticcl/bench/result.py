"""Result of a benchmark: as JSON, as tables for a terminal, and as Markdown for an issue."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.table import Table

from fasticcl.bench.measure import Measurement, format_figure
from fasticcl.plural import counted
from fasticcl.version import __version__

FORMAT = 2
"""Version of the JSON format. Since version 2, ``settings`` describes the run, and ``sizes`` of each figure
describes the measured batches."""
_SPREAD = ("median", "min", "max")
_FIGURES = len(_SPREAD)


@dataclass(frozen=True)
class Result:
    """Figures from one call of ``fasticcl bench``, with the settings and the hardware that they depend on."""

    settings: Mapping[str, Any]
    """Settings of the run. The sizes of a figure can differ, because a CPU trains smaller batches."""
    images: Mapping[str, Any]
    measured: Mapping[str, Measurement]
    """Throughput by benchmark and phase, for example ``loader interpolative``."""
    parts: Mapping[str, Measurement] = field(default_factory=dict)
    """Milliseconds of the parts of a training step, from a pass that waits for the device after each."""
    notes: tuple[str, ...] = ()
    """Conditions of the measurement, printed below the figures."""
    binds: str | None = None
    """Bottleneck of training: loader, step or both. None if it was not determined."""
    advice: str | None = None
    """A sentence that names the bottleneck and the settings to change."""
    hardware: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    """Name of the benchmark: plan, loader, step, train, convert or all."""

    def joined(self, other: "Result") -> "Result":
        """Return this result with the figures and notes of another added."""
        return replace(self, measured={**self.measured, **other.measured}, notes=self.notes + other.notes)

    def to_dict(self) -> dict[str, Any]:
        """Return the whole result as a dictionary for JSON."""
        return {
            "benchmark": self.what,
            "format": FORMAT,
            "fasticcl": __version__,
            "hardware": dict(self.hardware),
            "settings": dict(self.settings),
            "images": dict(self.images),
            "notes": list(self.notes),
            "measured": {name: measurement.to_dict() for name, measurement in self.measured.items()},
            "parts": {name: measurement.to_dict() for name, measurement in self.parts.items()},
            "binds": self.binds,
            "advice": self.advice,
        }


def tables(result: Result) -> Iterator[Table]:
    """Yield a table of the throughput and, if they were measured, a table of the parts of a step."""
    for title, header, rows in _contents(result):
        table = Table(*header[:-_FIGURES], title=title, title_justify="left")
        for column in header[-_FIGURES:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        yield table


def markdown(result: Result) -> str:
    """Return hardware, versions, settings, tables, advice and notes as Markdown."""
    lines = [f"## fasticcl {__version__}: bench {result.what}", ""]
    for title, values in (
        ("hardware", result.hardware),
        ("settings", result.settings),
        ("images", result.images),
    ):
        facts = (f"{name.replace('_', ' ')} {value}" for name, value in values.items())
        lines.append(f"- {title}: {', '.join(facts)}")
    for title, header, rows in _contents(result):
        lines += ["", f"**{title}**", "", _line(header)]
        lines.append(_line([*["---"] * (len(header) - _FIGURES), *["---:"] * _FIGURES]))
        lines += [_line(row) for row in rows]
    if result.advice:
        lines += ["", result.advice]
    if result.notes:
        lines += ["", *(f"- {note}" for note in result.notes)]
    return "\n".join(lines) + "\n"


def _contents(result: Result) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield title, header and rows of each table. Parts of a step have the same sizes, shown in the title."""
    if result.measured:
        rows = [[name, _sizes(each), *_figures(each)] for name, each in result.measured.items()]
        yield _title(result.measured, "run"), ["", "sizes", *_SPREAD], rows
    if result.parts:
        sizes = _sizes(next(iter(result.parts.values())))
        title = ", ".join(filter(None, (_title(result.parts, "step"), sizes)))
        yield title, ["", *_SPREAD], [[name, *_figures(each)] for name, each in result.parts.items()]


def _title(figures: Mapping[str, Measurement], kind: str) -> str:
    count = max(len(measurement.runs) for measurement in figures.values())
    return f"{next(iter(figures.values())).unit}, {counted(count, kind)}"


def _sizes(measurement: Measurement) -> str:
    return "" if measurement.sizes is None else measurement.sizes.describe()


def _figures(measurement: Measurement) -> list[str]:
    return [*map(format_figure, (measurement.median, measurement.min, measurement.max))]


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
