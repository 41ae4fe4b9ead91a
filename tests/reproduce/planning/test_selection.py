"""Rows and columns of a request."""

import pytest

from fasticcl.errors import UserError
from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.planning.selection import selected_table
from fasticcl.reproduce.request import Request
from tests.support.table_plans import write_manifest


def selected(table="table1", **options):
    return selected_table(Request(table, **options))


def test_rows_and_columns_by_name_method_and_dataset():
    table = selected(rows=("iccl", "crt"), columns=("cifar10-lt", "cifar100-lt-50"))
    assert [row.name for row in table.rows] == ["crt", "iccl"]
    assert [column.name for column in table.columns] == [
        "cifar100-lt-50",
        "cifar10-lt-100",
        "cifar10-lt-50",
        "cifar10-lt-10",
    ]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"rows": ("icl",)}, "table1 has no row 'icl'. Did you mean iccl? Its rows are ce, "),
        ({"columns": ("cifar100-lt-1",)}, "Did you mean cifar100-lt-100? Its columns are cifar100-lt-100, "),
        ({"on": "dem"}, "'dem' is neither a dataset preset nor a folder of shards. Did you mean demo?"),
    ],
)
def test_unknown_name_is_refused_with_the_nearest(options, reason):
    with pytest.raises(UserError) as error:
        selected(**options)
    assert reason in str(error.value)


def test_other_dataset_replaces_the_columns_and_the_figures():
    table = selected(on="demo")
    assert [(column.name, column.dataset, column.settings) for column in table.columns] == [
        ("demo", "demo", {})
    ]
    assert len(table.rows) == len(PaperTable.read("table1").rows)
    assert all(row.paper == {"demo": (None,)} for row in table.rows)
    table.check()


def test_folder_of_shards_has_the_preset_and_ratio_of_its_manifest(tmp_path):
    folder = write_manifest(tmp_path / "mine", imbalance=50)
    (column,) = selected(on=str(folder)).columns
    assert (column.name, column.dataset, column.settings) == ("mine", "cifar100-lt", {"data.imbalance": 50})
    folder = write_manifest(tmp_path / "birds", "folder", classes=3)
    (column,) = selected(on=str(folder)).columns
    assert (column.name, column.dataset, column.settings) == ("birds", "folder", {})


def test_folder_without_shards_is_refused(tmp_path):
    with pytest.raises(UserError, match="contains no shards"):
        selected(on=str(tmp_path))
