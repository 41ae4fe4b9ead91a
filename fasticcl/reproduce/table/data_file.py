"""The data of a result as JSON."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fasticcl.config.result_settings import result_settings
from fasticcl.reproduce.result import CellResult, MetricResult, SeedStatistic, TableResult
from fasticcl.reproduce.table import wording
from fasticcl.reproduce.table.norms import MethodNorms
from fasticcl.reproduce.table.page import run_path
from fasticcl.reproduce.table.run_result import EpochAccuracy, RunResult
from fasticcl.version import __version__

FORMAT = 1


def json_text(result: TableResult, folder: Path, norms: Sequence[MethodNorms] = ()) -> str:
    """Return the result as JSON.

    Args:
        result: the result.
        folder: the folder of the file, to which the paths of the runs are relative.
        norms: norms of weights and centroids (Figure 3).
    """
    values = {
        "format": FORMAT,
        "fasticcl": __version__,
        "table": result.table.name,
        "title": wording.heading(result),
        "command": result.command,
        "common_differences": [*result.common],
        "problems": [*result.problems],
        "notes": [*result.notes],
        "rows": [{"name": row.name, "title": row.title, "note": row.note} for row in result.rows],
        "columns": [
            {
                "name": column.name,
                "title": column.title,
                "dataset": column.dataset,
                "metrics": [*column.metrics],
            }
            for column in result.columns
        ],
        "cells": [_cell(cell, folder) for cell in result.cells.values()],
        "runs": {run_path(run.folder, folder): _run(run) for run in result.runs.values()},
    }
    if norms:
        values["norms"] = [_norms(each, folder) for each in norms]
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _cell(cell: CellResult, folder: Path) -> dict[str, Any]:
    return {
        "row": cell.row.name,
        "column": cell.column.name,
        "metrics": {metric.metric: _metric(metric) for metric in cell.metrics},
        "differences": [*cell.differences],
        "settings": result_settings(cell.config),
        "data": asdict(cell.data) if cell.data else None,
        "runs": [run_path(run.folder, folder) for run in cell.runs],
    }


def _norms(each: MethodNorms, folder: Path) -> dict[str, Any]:
    """Return the norms, with classes from the largest to the smallest."""
    arrays = {name: None if array is None else array.tolist() for name, array in vars(each.norms).items()}
    return {
        "column": each.column.name,
        "method": each.method,
        "run": run_path(each.run.folder, folder),
        **arrays,
    }


def _metric(metric: MetricResult) -> dict[str, Any]:
    return {
        "paper": metric.paper,
        "last": _statistic(metric.last, metric.difference("last")),
        "best": _statistic(metric.best, metric.difference("best")),
    }


def _statistic(statistic: SeedStatistic, difference: float | None) -> dict[str, Any]:
    return {
        "mean": statistic.mean,
        "std": statistic.std,
        "n": len(statistic.values),
        "difference": difference,
        "values": {str(seed): value for seed, value in statistic.values.items()},
    }


def _run(run: RunResult) -> dict[str, Any]:
    return {
        "seed": run.seed,
        "state": run.state,
        "detail": run.detail,
        "last": _epoch(run.last),
        "best": _epoch(run.best),
        "environments": run.environments,
    }


def _epoch(accuracy: EpochAccuracy | None) -> dict[str, Any] | None:
    return {"epoch": accuracy.epoch, **accuracy.values} if accuracy else None
