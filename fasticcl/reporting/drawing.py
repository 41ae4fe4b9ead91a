"""How figures look, and the forms in which they are kept: SVG, PNG, and SVG to lie in a page."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

SPLIT_COLORS = {"overall": "#7f7f7f", "many": "#0072b2", "medium": "#009e73", "few": "#d55e00"}
"""Of the palette of Okabe and Ito, which colour-blind readers can tell apart, on light and on dark."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_LEGEND = 68  # letters that fit into a line of it
_INK = "#1a1c1f"  # text and axes; a page replaces it by the colour of its own text
_STYLE = {
    "figure.figsize": (5.4, 3.6),
    "font.size": 10,
    "font.family": "sans-serif",
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), _INK
    ),
}


@contextmanager
def canvas(title: str, xlabel: str, ylabel: str) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure with one labelled pair of axes, in the style of all; what has a label gets a legend."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(title, loc="left")
        yield figure, axes
        handles = [line for each in figure.axes for line in each.get_legend_handles_labels()[0]]
        longest = max((len(str(each.get_label())) for each in handles), default=0)
        columns = max(1, min(len(handles), _LEGEND // (longest + 6)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def svg(figure: Figure, name: str) -> bytes:
    """Return a figure as an SVG file; the same figure gives the same bytes."""
    content = io.BytesIO()
    # The identifiers inside are made from the salt: those of two figures in one page must differ.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file for a paper or a talk."""
    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    return content.getvalue()


def inline(content: bytes) -> str:
    """Return an SVG file as an element of a page: as wide as its place, in the colours of its text."""
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'<g id="patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the white paper
    text = re.sub(r'<g id="patch_2">.*?</g>', "", text, count=1, flags=re.DOTALL)  # and that of the axes
    return text.replace(_INK, "currentColor")
