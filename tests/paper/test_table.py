"""Tables of the paper: their files and the configurations of their cells."""

from functools import cache

import numpy as np
import pytest

from fasticcl.data.sampling import class_probabilities
from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable, paper_table_names
from fasticcl.reproduce.run_key import first_stage_key, run_key

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


@cache
def cells():
    """Return table, row, column and configuration of all cells of the paper."""
    tables = map(PaperTable.read, paper_table_names())
    return [(table, *cell, table.config(*cell)) for table in tables for cell in table.cells]


def test_all_tables_and_figures_are_there():
    assert paper_table_names() == ["figure3", "figure4", *(f"table{number}" for number in range(1, 9))]


def test_every_cell_has_a_valid_configuration_and_a_row_title_of_its_own():
    assert all(config.data.dataset == column.dataset for _, _, column, config in cells())
    for table in map(PaperTable.read, paper_table_names()):
        assert len({row.title for row in table.rows}) == len(table.rows)


def test_cells_of_the_same_run_have_the_same_figures_in_all_tables():
    """The exception is LDAM-DRW in Table 3, with figures of Cao et al. and of Zhou et al."""
    figures: dict[tuple[str, str, str], float] = {}
    shared = 0
    for table, row, column, config in cells():
        if (row.name, column.name) == ("ldam-drw-zhou", "inat2018-90"):
            continue
        for metric, figure in zip(column.metrics, row.paper[column.name], strict=True):
            key = (run_key(config), row.result, metric)
            if figure is not None:
                shared += key in figures
                assert figures.setdefault(key, figure) == figure, (table.name, row.name)
    assert shared > 20


def test_rows_that_differ_in_the_second_stage_share_the_first_one():
    table = PaperTable.read("table2")
    stages = {row.name: first_stage_key(table.config(row, table.columns[0])) for row in table.rows}
    assert stages["crt"] == stages["lws"] == stages["ncm"] == stages["tau-norm"]
    assert stages["crt-improved"] == stages["lws-improved"]
    assert len(set(stages.values())) == 11 - 3 - 1
    for name, columns in (("table8", 5), ("figure4", 1)):
        table = PaperTable.read(name)
        assert len({first_stage_key(table.config(*cell)) for cell in table.cells}) == columns


def test_settings_of_one_column_override_those_of_the_row():
    """β and γ of CB-Focal were chosen for each column (Cui et al.). Zhou et al. train 180 epochs."""
    table = PaperTable.read("table1")
    row = next(row for row in table.rows if row.name == "cb-focal")
    methods = [table.config(row, column).method for column in table.columns]
    assert [method.class_weight_beta for method in methods] == [0.9, 0.9, 0.999, 0.9999, 0.9999, 0.999]
    assert [method.focal_gamma for method in methods] == [1, 1, 0.5, 1, 2, 1]
    table = PaperTable.read("table3")
    long = table.columns[1]
    epochs = {row.name: table.config(row, long).optim.epochs for row in table.rows if long.name in row.paper}
    assert {name for name, count in epochs.items() if count == 180} == {"bbn", "ldam-drw-zhou"}
    assert {name for name, count in epochs.items() if count == 200} == {
        "ncm",
        "crt",
        "tau-norm",
        "lws",
        "iccl",
    }


def test_T_of_the_long_column_is_that_of_the_paper():
    table = PaperTable.read("table3")
    assert [table.config(table.rows[-1], column).method.warmup_epochs for column in table.columns] == [
        40,
        100,
    ]


def test_rows_of_table_4_train_the_losses_that_they_name():
    """L_ce and L_ce^it and L_cc^it after the warm-up, and T, from the ticks in the paper."""
    table = PaperTable.read("table4")
    trained = []
    for row in table.rows:
        method = table.config(row, table.columns[0]).method
        mixed = method.interpolative_weight > 0
        trained.append(
            (
                method.uniform_weight > 0,
                mixed and method.interpolative_cross_entropy,
                mixed and method.centroid_contrastive,
                mixed and method.warmup_epochs,
            )
        )
    assert trained == [
        (True, False, False, False),
        (False, True, False, 0),
        (False, True, False, 40),
        (True, False, True, 40),
        (True, True, False, 40),
        (True, True, True, 0),
        (True, True, True, 40),
    ]
    stages = [table.config(row, table.columns[0]).rebalance for row in table.rows]
    assert stages == [stages[-1]] * 7


def test_uniform_row_of_table_6_draws_every_image_equally_often():
    table = PaperTable.read("table6")
    gamma = table.config(table.rows[0], table.columns[0]).data.gamma
    counts = np.array([500, 60, 5])
    np.testing.assert_allclose(class_probabilities(counts, gamma) / counts, 1 / 565)


def test_recipe_replaces_that_of_the_row():
    table = PaperTable.read("table1")
    crt, column = next(row for row in table.rows if row.name == "crt"), table.columns[0]
    own, preset = (table.config(table.rows[0], column, recipe) for recipe in (None, "preset"))
    assert own.optim.milestones == (0.8, 0.9)
    assert first_stage_key(preset) == first_stage_key(table.config(crt, column)) != first_stage_key(own)


def test_titles_of_metrics():
    assert PaperTable.read("table4").columns[0].titles == ("Overall", "Head", "Tail")


def test_unknown_table_names_the_nearest():
    with pytest.raises(UserError, match="table1"):
        PaperTable.read("table11")


def test_dash_stands_for_a_missing_figure():
    assert PaperTable.parse("t", TEXT.replace("FIGURES", '[1.5, "-"]')).rows[0].paper == {"a": (1.5, None)}


def test_figures_must_fit_the_metrics():
    with pytest.raises(ValueError, match="do not fit"):
        PaperTable.parse("t", TEXT.replace("FIGURES", "[1.5]"))


def test_settings_of_a_column_without_a_cell_are_refused():
    text = TEXT.replace("FIGURES", "[1, 2]") + 'column_settings = { b = { "data.gamma" = 1 } }\n'
    with pytest.raises(ValueError, match="no cell"):
        PaperTable.parse("t", text)
