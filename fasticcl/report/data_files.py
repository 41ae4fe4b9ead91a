"""The data of a report as JSON, CSV and LaTeX."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fasticcl.engine.evaluate import METRICS
from fasticcl.report.class_analysis import ClassAnalysis
from fasticcl.report.run_groups import RunGroup
from fasticcl.report.run_history import RunHistory

_LATEX_ESCAPES = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
    }
)


def run_json(history: RunHistory, analysis: ClassAnalysis | None) -> str:
    """Return ``report.json`` of one run."""
    values = {
        **_summary(history),
        "accuracies": {
            name: {"epoch": epoch, **metrics} for name, (epoch, metrics) in history.accuracies.items()
        },
        "paper": history.paper and asdict(history.paper),
        "differences": {
            key: {"preset": preset, "run": value} for key, (preset, value) in history.differences.items()
        },
        "settings": history.settings,
        "environments": history.environments,
        "details": analysis and analysis.model_dump(mode="json"),
    }
    return json.dumps(values, indent=1) + "\n"


def comparison_json(groups: Sequence[RunGroup]) -> str:
    """Return ``report.json`` of a comparison."""
    values = [
        {
            "label": group.label,
            "runs": [{**_summary(run), **run.final_accuracies} for run in group.runs],
            "statistics": {key: group.mean_and_std(key) for key in METRICS},
        }
        for group in groups
    ]
    return json.dumps({"groups": values}, indent=1) + "\n"


def _summary(history: RunHistory) -> dict[str, Any]:
    config = history.config
    return {
        "run": history.folder.name,
        "dataset": config.data.dataset,
        "method": config.method.name,
        "seed": config.engine.seed,
    }


def classes_csv(analysis: ClassAnalysis) -> str:
    """Return ``classes.csv``: name, training images, evaluated images and correct predictions per class."""
    table = io.StringIO()
    writer = csv.writer(table)
    right = [f"right_{name}" for name in analysis.right]
    writer.writerow(["class", "training_images", f"{analysis.split}_images", *right])
    writer.writerows(
        zip(analysis.classes, analysis.train_counts, analysis.seen, *analysis.right.values(), strict=True)
    )
    return table.getvalue()


def latex_table(groups: Sequence[RunGroup]) -> str:
    """Return rows of a LaTeX table: label, overall, many, medium, few, as mean ± deviation in percent."""
    rows = ["% Top-1 accuracy in %: overall & many & medium & few, as mean and standard deviation over seeds"]
    for group in groups:
        cells = [_latex_mean(group.mean_and_std(key)) for key in METRICS]
        unfinished = "" if all(run.finished for run in group.runs) else " (unfinished)"
        label = (group.label + unfinished).translate(_LATEX_ESCAPES)
        rows.append(" & ".join([label, *cells]) + " \\\\")
    return "\n".join(rows) + "\n"


def _latex_mean(mean_and_std: tuple[float, float | None] | None) -> str:
    if mean_and_std is None:
        return "--"
    mean, std = mean_and_std
    return f"{mean:.1f}" if std is None else f"${mean:.1f} \\pm {std:.1f}$"
