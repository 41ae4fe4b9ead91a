"""The common style of all figures, and their export to PNG, SVG and inline SVG."""

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

GROUP_COLORS = {"overall": "#7f7f7f", "many": "#0072b2", "medium": "#009e73", "few": "#d55e00"}
"""Okabe-Ito colours, which colour-blind readers can distinguish on light and dark backgrounds."""
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
PERCENT_LIMITS = (-2, 102)
"""Axis limits for percentages. The margin keeps lines at 0 and at 100 fully visible."""
_LEGEND_WIDTH = 60  # characters in one line of a legend
_MARKER_LIMIT = 20  # curves of up to this many points get markers, because a single point has no line
_LABEL_GAP = 6  # points between the labels of adjacent spans
_INK = "#1a1c1f"  # colour of text and axes, replaced by the text colour of the page in inline SVG
_STYLE = {
    "figure.figsize": (4.8, 3.3),  # about 3.5 inches wide on a phone, where text must stay readable
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
def styled_figure(title: str, xlabel: str, ylabel: str) -> Iterator[tuple[Figure, Axes]]:
    """Yield a figure in the common style and its axes. Labelled artists get a legend on exit."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_title(title, loc="left")
        yield figure, axes
        handles = [handle for each in figure.axes for handle in each.get_legend_handles_labels()[0]]
        longest = max((len(str(handle.get_label())) for handle in handles), default=0)
        columns = max(1, min(len(handles), _LEGEND_WIDTH // (longest + 6)))
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def plot_curve(axes: Axes, values: ArrayLike, **style: Any) -> None:
    """Plot values [N] against 1 to N with integer ticks. The line connects the values that are not NaN."""
    y = np.asarray(values, dtype=float)
    x = np.flatnonzero(~np.isnan(y))
    marker = "o" if len(x) <= _MARKER_LIMIT else ""
    axes.plot(x + 1, y[x], marker=marker, markersize=3, **style)
    axes.xaxis.set_major_locator(MaxNLocator(8, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1))


def label_spans(figure: Figure, axes: Axes, labels: Sequence[str], edges: Sequence[float]) -> None:
    """Label adjacent spans of the x-axis above the axes, each at its middle unless labels would overlap.

    Args:
        figure: the figure of the axes.
        axes: the axes. Their x-limits are set to the first and the last edge.
        labels: [S] labels, from left to right.
        edges: [S + 1] edges of the spans.
    """
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=18)  # leaves room for the labels
    axes.set_xlim(edges[0], edges[-1])
    figure.draw_without_rendering()  # computes the width of the axes
    texts = [
        axes.text(0, 1.01, label, transform=axes.transAxes, fontsize=8, va="bottom", alpha=0.8)
        for label in labels
    ]
    width, gap = axes.bbox.width, _LABEL_GAP * figure.dpi / 72
    widths = np.array([text.get_window_extent().width for text in texts])
    middles = (np.array(edges[:-1]) + np.array(edges[1:])) / 2 - edges[0]
    lefts = middles / (edges[-1] - edges[0]) * width - widths / 2
    for text, left in zip(texts, _separate(lefts, widths + gap, width + gap), strict=True):
        text.set_x(left / width)


def _separate(lefts: NDArray[np.float64], widths: NDArray[np.float64], right: float) -> NDArray[np.float64]:
    """Return left edges [S] within 0 to ``right`` without overlaps, as close to ``lefts`` as possible."""
    lefts = lefts.copy()
    for i in range(len(lefts)):
        lefts[i] = max(lefts[i], lefts[i - 1] + widths[i - 1] if i else 0.0)
    for i in reversed(range(len(lefts))):
        lefts[i] = min(lefts[i], right - widths[i])
        right = lefts[i]
    return lefts


def to_svg(figure: Figure, name: str) -> bytes:
    """Return a figure as an SVG file. The same figure gives the same bytes."""
    content = io.BytesIO()
    # The salt determines the element ids, which must differ between the figures of one page.
    with matplotlib.rc_context(_STYLE | {"svg.hashsalt": name, "svg.id": name}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    return content.getvalue()


def to_png(figure: Figure) -> bytes:
    """Return a figure as a PNG file, for papers and slides."""
    content = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        figure.savefig(content, format="png", dpi=200, metadata={"Software": None})
    return content.getvalue()


def inline_svg(content: bytes) -> str:
    """Convert an SVG file to an HTML element that fills its container and uses the page's text colour."""
    text = content.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    for background in ("patch_1", "patch_2"):  # of the figure and of the axes
        text = re.sub(rf'<g id="{background}">.*?</g>', "", text, count=1, flags=re.DOTALL)
    return text.replace(_INK, "currentColor")
