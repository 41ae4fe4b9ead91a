"""Cells with other seeds and data."""

from pathlib import Path

from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.run_key import run_key


def test_seed_and_folder_are_those_of_the_configuration():
    table = PaperTable.read("table1")
    row, column = table.rows[0], table.columns[0]
    config = table.config(row, column)
    cell = Cell(row, column, config, config).with_seed(2).on(Path("elsewhere"))
    assert cell.seed == 2
    assert cell.config.data.dir == Path("elsewhere")
    assert run_key(cell.with_seed(0).config) == run_key(config)
    assert run_key(cell.config) != run_key(config)
