"""The result of `gpu.py` as Markdown."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from _gpu.bench import Figures
from fasticcl.bench.measure import format_figure


def markdown(result: Figures, parts: Iterable[str]) -> str:
    """Return a table for each part that ran, and the names of the failed and skipped parts."""
    lines = ["# fasticcl on one device", "", ", ".join(f"{k} {v}" for k, v in result["hardware"].items())]
    for name in parts:
        if name in result:
            lines += ["", f"## {name}", "", *table(rows_of(name, result[name]))]
    lines += ["", *(f"Failed: {name}: {reason}" for name, reason in result["failed"].items())]
    if result["left_out"]:
        lines += ["", f"Skipped, no time left: {', '.join(result['left_out'])}."]
    return "\n".join(lines) + "\n"


def rows_of(name: str, figures: Figures) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield title and columns of each row of a part's table."""
    if name == "corrupt":
        yield "epoch", figures
    elif name == "training":
        for title, each in figures.items():
            if isinstance(each, str):
                yield title, {"note": each}
            else:
                rates = {f"{kind}, images/s": spread(one) for kind, one in each["images_per_second"].items()}
                yield title, rates | {"note": each["advice"]}
    elif name == "peers":
        for title, each in figures.items():
            yield (
                title,
                {
                    kind: spread(one) if isinstance(one, dict) else "–".join(f"{x:.2f}" for x in sorted(one))
                    for kind, one in each.items()
                },
            )
    else:
        yield from figures.items()


def spread(figures: Mapping[str, Any]) -> str:
    median, least, most = (format_figure(figures[key]) for key in ("median", "min", "max"))
    return f"{median} ({least} to {most})"


def table(rows: Iterator[tuple[str, Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of Markdown tables. A row whose columns differ from the previous one starts a table."""
    columns: list[str] | None = None
    for title, values in rows:
        if list(values) != columns:
            if columns is not None:
                yield ""
            columns = list(values)
            yield f"| | {' | '.join(columns)} |"
            yield f"|---|{'---:|' * len(columns)}"
        yield f"| {title} | {' | '.join(map(cell, values.values()))} |"


def cell(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
