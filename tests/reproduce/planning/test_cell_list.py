"""The cells of a request, and settings that reach only some of them."""

from dataclasses import replace

import pytest

from fasticcl.config.layers import as_layer
from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.planning.cell_list import CellList
from fasticcl.reproduce.request import Request

TABLE1 = PaperTable.read("table1")
ROWS = ("ce", "crt", "iccl")
SMALL = replace(
    TABLE1,
    columns=TABLE1.columns[:2],
    rows=tuple(row for row in TABLE1.rows if row.name in ROWS),
)


def cells(table=SMALL, seeds=1, **settings):
    layer = as_layer({key.replace("__", "."): value for key, value in settings.items()})
    return CellList.of(table, Request("table1", seeds=seeds, settings=layer))


def test_seeds_then_columns_then_rows():
    listed = cells(seeds=2)
    columns = [column.name for column in SMALL.columns]
    expected = [(seed, column, row) for seed in (0, 1) for column in columns for row in ROWS]
    assert [(cell.seed, cell.column.name, cell.row.name) for cell in listed.cells] == expected
    assert listed.problems == []
    assert listed.notes == []


def test_column_without_an_entry_has_no_cell():
    rows = tuple(replace(row, paper={SMALL.columns[0].name: (None,)}) for row in SMALL.rows[:1])
    assert len(cells(replace(SMALL, rows=rows)).cells) == 1


def test_setting_that_some_rows_do_not_use_is_noted():
    listed = cells(rebalance__gamma=0.5)
    assert listed.notes == ["rebalance.gamma has no effect in ce, and is set only in the other rows"]
    assert [cell.config.rebalance.gamma for cell in listed.cells[1:3]] == [0.5, 0.5]


def test_setting_that_no_row_uses_is_refused():
    with pytest.raises(UserError, match=r"rebalance\.tau has no effect in any of these rows: ce, crt, iccl"):
        cells(rebalance__tau=0.5)


def test_row_that_does_not_work_with_the_settings_is_a_problem():
    rows = tuple(row for row in TABLE1.rows if row.name in ("ce", "bbn"))
    listed = cells(replace(SMALL, rows=rows), method__classifier="causal")
    assert {cell.row.name for cell in listed.cells} == {"ce"}
    assert len(listed.problems) == 2
    assert listed.problems[0].startswith("bbn on cifar100-lt-100: method.classifier=causal")


def test_rows_that_become_equal_are_noted():
    rows = [
        replace(SMALL.rows[-1], name=f"gamma-{gamma}", settings={"data.gamma": gamma}) for gamma in (0, 1)
    ]
    table = replace(SMALL, rows=tuple(rows))
    assert cells(table).notes == []
    assert cells(table, data__gamma=0.5).notes == [
        "with these settings, the rows gamma-0, gamma-1 are the same training"
    ]


def test_rows_that_share_a_run_in_the_paper_are_not_noted():
    assert cells(PaperTable.read("table7"), optim__lr=0.3).notes == []


@pytest.mark.parametrize(("setting", "value"), [("optim__lr", -1), ("rebalance__classifier", "frozen")])
def test_value_that_is_invalid_in_all_rows_is_refused(setting, value):
    with pytest.raises(UserError, match=setting.replace("__", r"\.")):
        cells(**{setting: value})
