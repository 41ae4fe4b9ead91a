"""Tables of the paper: their files and the configurations of their cells."""

import pytest

from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable, paper_table_names

TEXT = """
title = "T"
[columns.a]
title = "A"
dataset = "cifar100-lt"
metrics = ["overall", "many"]
[rows.r]
title = "R"
method = "ce"
paper = { a = FIGURES }
"""


@pytest.mark.parametrize("name", paper_table_names())
def test_every_cell_with_a_published_figure_has_a_configuration(name):
    table = PaperTable.read(name)
    for row in table.rows:
        for column in table.columns:
            if column.name in row.paper:
                assert table.config(row, column).data.dataset == column.dataset


def test_unknown_table_names_the_nearest():
    with pytest.raises(UserError, match="table1"):
        PaperTable.read("table11")


def test_dash_stands_for_a_missing_figure():
    assert PaperTable.parse("t", TEXT.replace("FIGURES", '[1.5, "-"]')).rows[0].paper == {"a": (1.5, None)}


def test_figures_must_fit_the_metrics():
    with pytest.raises(ValueError, match="do not fit"):
        PaperTable.parse("t", TEXT.replace("FIGURES", "[1.5]"))
