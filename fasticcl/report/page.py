"""The page: sections of tables, figures and pictures in one HTML file that needs no network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import resources

import jinja2
from markupsafe import Markup

_HERE = resources.files("fasticcl.report")


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    name: str
    number: bool = False
    """Whether its cells are numbers, which are set to the right."""


@dataclass(frozen=True)
class Cell:
    """What a cell shows, and by what it is sorted."""

    text: str
    key: float | str | None = None
    """A number to sort by, an empty string for none; None: the text itself."""


@dataclass(frozen=True)
class Table:
    """A table; a sortable one is sorted by a click on the head of a column."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    sortable: bool = False
    folded: bool = False
    """Whether it is shown on demand only, by a click on its caption."""


@dataclass(frozen=True)
class Drawing:
    """A figure, as an SVG element."""

    svg: str
    caption: str


@dataclass(frozen=True)
class Mistakes:
    """What one class is taken for: a sentence, and pictures as `details.Picture` has them, by name."""

    name: str
    text: str
    pictures: Sequence[dict[str, str | bool]]


@dataclass(frozen=True)
class Section:
    """A part of the page."""

    title: str
    text: str = ""
    tables: Sequence[Table] = ()
    figures: Sequence[Drawing] = ()
    confusions: Sequence[Mistakes] = field(default_factory=tuple)


def render(title: str, subtitle: str, sections: Sequence[Section], footer: str) -> str:
    """Return the page; every text in it is escaped, whatever a dataset calls its classes."""
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


def percent_cell(value: float | None, text: str | None = None) -> Cell:
    """Return a cell with a percentage, or a dash where there is none."""
    missing = value is None or value != value
    return Cell("–" if missing else text or f"{value:.1f}", "" if missing else value)


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
