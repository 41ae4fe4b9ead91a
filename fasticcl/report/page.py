"""The HTML page of a report: sections of tables, figures and images in one self-contained file."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import jinja2
from markupsafe import Markup

_FOLDER = resources.files("fasticcl.report")


@dataclass(frozen=True)
class Column:
    """The header of a column."""

    name: str
    number: bool = False
    """If True, its cells are numbers and are right-aligned."""


@dataclass(frozen=True)
class Cell:
    """A table cell."""

    text: str
    sort_key: float | str | None = None
    """Number to sort by. An empty string marks a missing value, which sorts last. None sorts by the text."""


@dataclass(frozen=True)
class Table:
    """A table of the page."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = False
    """If True, a click on a column header sorts the rows."""
    folded: bool = False
    """If True, only the caption is shown until it is clicked."""


@dataclass(frozen=True)
class PageFigure:
    """A figure as an SVG element, with its caption."""

    svg: str
    caption: str


@dataclass(frozen=True)
class ConfusedClass:
    """A class with many errors: its name, a description, and misclassified images."""

    name: str
    text: str
    images: Sequence[dict[str, str | bool]]
    """The fields of `class_analysis.ExampleImage`, with the predicted class by name."""


@dataclass(frozen=True)
class PageSection:
    """A section of the page."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[PageFigure] = ()
    confused_classes: Sequence[ConfusedClass] = ()


def render_page(title: str, subtitle: str, sections: Sequence[PageSection], footer: str) -> str:
    """Return the page as HTML. All text is escaped, including class names from the dataset."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(_read("page.html.j2"))
    return template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        footer=footer,
        style=Markup(_read("page.css")),
        script=Markup(_read("page.js")),
    )


def count_cell(value: int) -> Cell:
    """Return a cell with an integer, with thousands separators."""
    return Cell(f"{value:,}", value)


def percent_cell(value: float | None, text: str | None = None) -> Cell:
    """Return a cell with a percentage or the given text, and with a dash if the value is None or NaN."""
    missing = value is None or value != value
    return Cell("–" if missing else text or f"{value:.1f}", "" if missing else value)


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
