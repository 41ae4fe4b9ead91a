"""How figures look, and the forms in which they are kept: SVG, PNG, and SVG to lie in a page."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray

SPLIT_COLORS = {"overall": "#7f7f7f", "many": "#0072b2", "medium": "#009e73", "few": "#d55e00"}
"""Of the palette of Okabe and Ito, which colour-blind readers can tell apart, on light and on dark."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PERCENT = (-2, 102)
"""Limits of an axis of percentages: a line along 0 or 100 is seen whole."""
_LEGEND = 60  # letters that fit into a line of it
_DOTTED = 20  # a line of so few values has dots: of one value nothing else would be seen
_GAP = 6  # points between names of spans
_INK = "#1a1c1f"  # text and axes; a page replaces it by the colour of its own text
_STYLE = {
    "figure.figsize": (4.8, 3.3),  # on a phone it is 3.5 wide, and its letters are still to be read
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


def curve(axes: Axes, values: ArrayLike, **style: Any) -> None:
    """Draw values [N] against 1 to N, with whole numbers on the axis; not-a-numbers are left out."""
    numbers = np.asarray(values, dtype=float)
    marker = "o" if len(numbers) <= _DOTTED else ""
    axes.plot(np.arange(1, len(numbers) + 1), numbers, marker=marker, markersize=3, **style)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))


def name_spans(figure: Figure, axes: Axes, names: Sequence[str], ends: Sequence[float]) -> None:
    """Name adjacent spans of the horizontal axis above it, each at its middle unless names would overlap.

    Args:
        figure: in which the axes are.
        axes: whose limits are set to the first and last of the ends.
        names: [S], in order.
        ends: [S + 1] where the first begins and where each ends.
    """
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=18)  # the names find room below it
    axes.set_xlim(ends[0], ends[-1])
    figure.draw_without_rendering()  # only now the width of the axes is known
    texts = [
        axes.text(0, 1.01, name, transform=axes.transAxes, fontsize=8, va="bottom", alpha=0.8)
        for name in names
    ]
    width, gap = axes.bbox.width, _GAP * figure.dpi / 72
    widths = np.array([text.get_window_extent().width for text in texts])
    middles = (np.array(ends[:-1]) + np.array(ends[1:])) / 2 - ends[0]
    lefts = middles / (ends[-1] - ends[0]) * width - widths / 2
    for text, left in zip(texts, _apart(lefts, widths + gap, width + gap), strict=True):
        text.set_x(left / width)


def _apart(lefts: NDArray[np.float64], widths: NDArray[np.float64], room: float) -> NDArray[np.float64]:
    """Return left edges [S] between 0 and room, as near to the wanted ones as their widths allow."""
    lefts = lefts.copy()
    for place in range(len(lefts)):
        least = lefts[place - 1] + widths[place - 1] if place else 0.0
        lefts[place] = max(lefts[place], least)
    for place in reversed(range(len(lefts))):
        lefts[place] = min(lefts[place], room - widths[place])
        room = lefts[place]
    return lefts


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
