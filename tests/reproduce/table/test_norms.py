"""Norms of classifier weights and centroids of saved runs."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.weights import Description, pack_weights
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.files import write_result
from fasticcl.reproduce.plan import Cell, Job, Plan
from fasticcl.reproduce.result import table_result
from fasticcl.reproduce.table.norms import ClassNorms, norm_figures, read_norms
from fasticcl.resolve import configure
from tests.support.reproduced_table import DATA, epoch_differences, write_run

SETTINGS = {"rebalance.epochs": 1, "method.encoder": "resnet8", "method.warmup_epochs": 0}
TABLE = """
title = "Norms"
kind = "norms"
[columns.digits]
title = "Digits"
dataset = "demo"
[rows.before]
title = "ICCL, before"
method = "iccl"
result = "before"
[rows.before.paper]
digits = "-"
[rows.iccl]
title = "ICCL"
method = "iccl"
[rows.iccl.paper]
digits = "-"
"""


COUNTS = [5, 40, 7, 40]
"""Training images. Classes 1 and 3 are of equal size."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of ICCL with random weights."""
    config = configure("demo", epochs=1, project=tmp_path_factory.mktemp("runs"), name="run", set=SETTINGS)
    folder = write_run(config, [[1.0, None, 1.0, 1.0]], [[1.0, None, 1.0, 1.0]])
    torch.manual_seed(0)
    before, after = Network("resnet8", 4), Network("resnet8", 4)
    description = Description.of(config, ["a", "b", "c", "d"], np.array(COUNTS))
    (folder / "model.safetensors").write_bytes(pack_weights(after, description))
    state = {"network": after.state_dict(), "teacher": before.state_dict()}
    Checkpoint("rebalancing", 1, 0, DATA, state).save(folder / "last.pt")
    np.save(folder / "centroids.npy", np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32))
    return folder


def test_norms_are_those_of_the_saved_weights_in_order_of_class_size(run):
    read = ClassNorms.read(run)
    order = [1, 3, 2, 0]
    after = load_file(run / "model.safetensors")["classifier.weight"].double()
    before = torch.load(run / "last.pt", weights_only=True)["teacher"]["classifier.weight"].double()
    centroids = np.load(run / "centroids.npy").astype(np.float64)
    assert read.after == pytest.approx([float((after[k] ** 2).sum() ** 0.5) for k in order])
    assert read.before == pytest.approx([float((before[k] ** 2).sum() ** 0.5) for k in order])
    assert read.centroids == pytest.approx([(centroids[k] ** 2).sum() ** 0.5 for k in order], rel=1e-5)
    assert not np.allclose(read.before, read.after)


@pytest.fixture
def result(run):
    table = PaperTable.parse("figure9", TABLE)
    config = RunFolder.open(run).config
    cells = tuple(Cell(row, column, config, table.config(row, column)) for row, column in table.cells)
    return table_result(Plan(cells, [Job(config, cells)]), table, differences=epoch_differences)


def test_one_plot_for_each_stage_with_equal_axes(run, result):
    norms, problems = read_norms(result)
    assert problems == []
    figures = [*norm_figures("figure9", norms)]
    assert [name for name, _, _ in figures] == ["figure9-digits-before", "figure9-digits-after"]
    read = ClassNorms.read(run)
    for (_, figure, _), values in zip(figures, (read.before, read.after), strict=True):
        (axes,) = figure.axes
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        assert [*lines] == ["ICCL classifier", "ICCL centroids"]
        assert lines["ICCL classifier"] == pytest.approx(values)
        assert lines["ICCL centroids"] == pytest.approx(read.centroids)
    assert len({figure.axes[0].get_ylim() for _, figure, _ in figures}) == 1


def test_missing_weights_are_a_problem_of_the_result(result, tmp_path, monkeypatch):
    def fail(folder):
        raise UserError(f"There are no finished weights in {folder}.")

    monkeypatch.setattr(ClassNorms, "read", fail)
    write_result(result, tmp_path)
    assert "There are no finished weights in" in (tmp_path / "figure9.html").read_text()
    assert len(json.loads((tmp_path / "figure9.json").read_text())["problems"]) == 1


def test_norms_are_in_the_json_file_and_the_figures_in_the_markdown_file(run, result, tmp_path):
    write_result(result, tmp_path)
    (norms,) = json.loads((tmp_path / "figure9.json").read_text())["norms"]
    read = ClassNorms.read(run)
    assert (norms["method"], norms["after"], norms["before"]) == ("ICCL", [*read.after], [*read.before])
    assert "![Figure 9](figure9-digits-before.svg)" in (tmp_path / "figure9.md").read_text()
