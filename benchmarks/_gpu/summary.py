"""The result of `gpu.py` as JSON and Markdown, from the lines of its rows."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from _gpu.rows import Figures, read_rows
from _gpu.supervisor import HEADER, pending
from _gpu.targets import targets
from fasticcl.bench.measure import format_figure
from fasticcl.files import write_file

_NOT_IN_TABLES = ("part", "row", "at", "seconds", "settings")


def write_summary(file: Path) -> Figures:
    """Write ``gpu.json`` and ``gpu.md`` next to the lines of the rows, and return the result."""
    result = summarize(read_rows(file))
    write_file(file.with_suffix(".json"), (json.dumps(result, indent=1) + "\n").encode())
    write_file(file.with_suffix(".md"), markdown(result).encode())
    return result


def summarize(lines: list[Figures]) -> Figures:
    """Return the header and all rows. Planned rows without a line count as left out."""
    header, rows = lines[0], [line for line in lines if line["part"] != HEADER]
    left_out = [title(line) for line in rows if "left_out" in line]
    left_out += [f"{part}: {row}" for part, row, _ in pending(lines)]
    full = header["device"] == "gpu" and not header["small"]
    return {
        "benchmark": "gpu",
        **{key: header[key] for key in ("device", "small", "whole_images", "hardware")},
        "seconds": lines[-1]["at"],
        "rows": rows,
        "left_out": left_out,
        "failed": {title(line): line["failed"] for line in rows if "failed" in line},
        "targets": targets(rows if full else []),
    }


def title(line: Figures) -> str:
    return f"{line['part']}: {line['row']}"


def markdown(result: Figures) -> str:
    """Return a table for each part, the rows that failed or were left out, and the targets."""
    lines = ["# fasticcl on one device", "", ", ".join(f"{k} {v}" for k, v in result["hardware"].items())]
    if result["whole_images"]:
        lines += ["", "Every image was decoded whole and then cut (`--whole-images`)."]
    lines += ["", "Rates are `median (minimum to maximum)` of the runs."]
    measured = [line for line in result["rows"] if not line.keys() & {"failed", "left_out"}]
    for part in dict.fromkeys(line["part"] for line in measured):
        rows = ((line["row"], figures(line)) for line in measured if line["part"] == part)
        lines += ["", f"## {part}", "", *table(rows)]
    lines += ["", *(f"Failed: {row}: {reason}" for row, reason in result["failed"].items())]
    if result["left_out"]:
        lines += ["", "Not measured:", *(f"- {row}" for row in result["left_out"])]
    lines += [
        "",
        "## Targets",
        "",
        *table((each["target"], without(each, "target")) for each in result["targets"]),
    ]
    lines += [
        "",
        "Forward images: each forward pass of the encoder in training counts its batch, so a step has B",
    ]
    lines += ["images in warm-up (x_h) and 2·B in the interpolative phase (x_h and x_f)."]
    return "\n".join(lines) + "\n"


def figures(line: Figures) -> Figures:
    """Return the columns of a row."""
    return {
        name: spread(value) if isinstance(value, dict) else value
        for name, value in without(line, *_NOT_IN_TABLES).items()
    }


def without(line: Mapping[str, Any], *names: str) -> Figures:
    return {name: value for name, value in line.items() if name not in names}


def spread(measured: Mapping[str, Any]) -> str:
    median, least, most = (format_figure(measured[key]) for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def table(rows: Iterable[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of Markdown tables, one for each set of columns."""
    tables: dict[tuple[str, ...], list[str]] = {}
    for name, values in rows:
        line = f"| {name} | {' | '.join(map(cell, values.values()))} |"
        tables.setdefault(tuple(values), []).append(line)
    for number, (columns, lines) in enumerate(tables.items()):
        yield from [""] * (number > 0)
        yield f"| | {' | '.join(columns)} |"
        yield f"|---|{'---:|' * len(columns)}"
        yield from lines


def cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
