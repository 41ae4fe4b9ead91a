"""Several runs side by side: those of one configuration and several seeds are one experiment."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from fasticcl.engine.evaluate import METRICS
from fasticcl.report.drawing import COLORS, PERCENT, canvas, curve
from fasticcl.report.run_record import RunRecord

_LATEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)
_NAMES = ("data.dataset", "method.name")
_EFFORT = ("data.shards", "method.encoder", "optim.epochs", "optim.batch_size")


@dataclass(frozen=True)
class Group:
    """Runs of one configuration that differ in seed and name alone."""

    label: str
    """What sets it apart from the other groups."""
    runs: list[RunRecord]

    @property
    def seeds(self) -> int:
        """How many different seeds there are."""
        return len({run.config.engine.seed for run in self.runs})

    def statistics(self, key: str) -> tuple[float, float | None] | None:
        """Return a last-epoch metric's mean and standard deviation (n - 1) over seeds; of one no deviation.

        Runs of the same seed are no further evidence: their mean counts once.
        """
        by_seed: dict[int, list[float]] = {}
        for run in self.runs:
            if (value := run.final[key]) is not None:
                by_seed.setdefault(run.config.engine.seed, []).append(value)
        values = [np.mean(each) for each in by_seed.values()]
        if not values:
            return None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def group(records: Iterable[RunRecord]) -> list[Group]:
    """Return the runs by configuration, each group labelled by the settings in which they differ."""
    members: dict[str, list[RunRecord]] = {}
    for record in records:
        members.setdefault(json.dumps(record.group, sort_keys=True), []).append(record)
    groups = [*members.values()]
    labels = _labels([each[0].group for each in groups])
    return [Group(label, runs) for label, runs in zip(labels, groups, strict=True)]


def _labels(settings: list[dict[str, Any]]) -> list[str]:
    """Return dataset, method, data and effort where these differ; between equals in that, what else does.

    A baseline differs in many settings, for which its name stands, but not for a longer training.
    """
    apart = [*_differing(settings, among=_NAMES), *_differing(settings, among=_EFFORT)]
    named = [
        ", ".join(
            str(each[key]) if key in _NAMES else f"{key.partition('.')[2]} {each[key]}" for key in apart
        )
        for each in settings
    ]
    labels = []
    for name, each in zip(named, settings, strict=True):
        peers = [other for label, other in zip(named, settings, strict=True) if label == name]
        further = [f"{key.partition('.')[2]} {each[key]}" for key in _differing(peers, among=each)]
        labels.append(", ".join([name] * bool(name) + further) or str(each["method.name"]))
    return labels


def _differing(settings: list[dict[str, Any]], among: Iterable[str]) -> list[str]:
    return [key for key in among if len({json.dumps(each.get(key)) for each in settings}) > 1]


def overlaid(groups: list[Group], key: str, title: str) -> Figure:
    """Draw a metric of all runs against the epoch, a colour for each group."""
    with canvas(title, "epoch", "%") as (figure, axes):
        for number, each in enumerate(groups):
            for place, run in enumerate(each.runs):
                values = [np.nan if record[key] is None else record[key] for record in run.epochs]
                curve(
                    axes,
                    values,
                    color=COLORS[number % len(COLORS)],
                    alpha=0.75,
                    linewidth=1.1,
                    label=f"{each.label} ({len(each.runs)})" if place == 0 else None,
                )
        axes.set_ylim(PERCENT)
    return figure


def latex(groups: list[Group]) -> str:
    """Return rows of a LaTeX table: label, overall, many, medium, few, as mean ± deviation in percent."""
    rows = ["% top-1, %: overall & many & medium & few; mean and standard deviation over seeds"]
    for each in groups:
        cells = [_cell(each.statistics(key)) for key in METRICS]
        unfinished = "" if all(run.finished for run in each.runs) else " (unfinished)"
        rows.append(" & ".join([_escaped(each.label + unfinished), *cells]) + " \\\\")
    return "\n".join(rows) + "\n"


def _cell(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "--"
    mean, deviation = found
    return f"{mean:.1f}" if deviation is None else f"${mean:.1f} \\pm {deviation:.1f}$"


def _escaped(text: str) -> str:
    return text.translate(_LATEX)
