"""Metrics plotted over a setting."""

from dataclasses import replace

import numpy as np
import pytest

from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.files import write_result
from fasticcl.reproduce.result import SeedStatistic, table_result
from fasticcl.reproduce.table.curves import curves
from tests.support.reproduced_table import epoch_differences, plan_of, write_run

TABLE = """
title = "Temperature"
kind = "curves"
x = "rebalance.distillation_temperature"
[columns.digits]
title = "Digits"
dataset = "demo"
metrics = ["overall", "few"]
""" + "".join(
    f"""
[rows.tau-{x}]
title = "τ_d = {x}"
method = "iccl"
settings = {{ "rebalance.distillation_temperature" = {x}.0 }}
[rows.tau-{x}.paper]
digits = {paper}
"""
    for x, paper in ((20, '["-", "-"]'), (1, '["-", "-"]'), (10, "[54.0, 39.0]"))
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    table = PaperTable.parse("figure9", TABLE)
    plan = plan_of(table, folder, seeds=2)
    for job in plan.jobs:
        x, seed = job.config.rebalance.distillation_temperature, job.config.engine.seed
        if x != 20 or seed == 0:
            write_run(job.config, [[1.0, None, None, 1.0]] * 3, [[30 + x + seed, None, None, 10 + x]] * 2)
    return table_result(plan, table, differences=epoch_differences)


def test_curves_are_the_means_over_the_sorted_setting_and_the_paper_is_marked(result):
    ((name, figure, _),) = curves(result)
    assert name == "figure9-digits"
    (axes,) = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert [*lines["Overall"].get_xdata()] == [1, 10, 20]
    assert [*lines["Overall"].get_ydata()] == [31.5, 40.5, 50.0]
    assert [*lines["Few"].get_ydata()] == [11.0, 20.0, 30.0]
    marked = [
        (x, y)
        for line in axes.lines
        if line.get_marker() == "s"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
        if np.isfinite(y)
    ]
    assert marked == [(10.0, 54.0), (10.0, 39.0)]
    assert axes.get_xscale() == "log"


def _one_seed_without_paper(metric):
    return replace(metric, paper=None, last=SeedStatistic({0: metric.last.mean}))


def test_only_marks_that_the_figure_contains_are_explained(result):
    ((_, figure, caption),) = curves(result)
    assert caption.endswith(
        "Bars: standard deviation over the seeds. Open squares: figures published in the paper."
    )
    assert "paper" in {line.get_label() for line in figure.axes[0].lines}
    cells = {
        key: replace(cell, metrics=[_one_seed_without_paper(metric) for metric in cell.metrics])
        for key, cell in result.cells.items()
    }
    ((_, figure, caption),) = curves(replace(result, cells=cells))
    assert caption == "Digits: accuracy at the last epoch."
    assert "paper" not in {line.get_label() for line in figure.axes[0].lines}


def test_page_contains_the_figure_and_its_files_are_written(result, tmp_path):
    names = {path.name for path in write_result(result, tmp_path)}
    assert {"figure9-digits.svg", "figure9-digits.png", "figure9.html"} <= names
    assert "<svg" in (tmp_path / "figure9.html").read_text()


def test_columns_without_a_finished_run_have_no_figure(tmp_path):
    table = PaperTable.parse("figure9", TABLE)
    assert [*curves(table_result(plan_of(table, tmp_path), table, differences=epoch_differences))] == []
