"""The table of a result in Markdown."""

import pytest

from fasticcl.reproduce.table.markdown import markdown
from tests.support.reproduced_table import small_result


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return markdown(small_result(folder), folder).replace("\xa0", " ").splitlines()


def test_titles_are_escaped_and_every_row_has_all_cells(lines):
    (row, _) = [line for line in lines if (line.startswith("| CE") and "36.7" in line) or "38.7" in line]
    assert row.startswith(r"| CE\* \[1\] &lt;b>\|\_^ | **36.7 ± 1.8**<sup>a</sup> (n = 3)<br>paper 38.3 (")
    table = [line for line in lines[lines.index("## Accuracy at the last epoch") :] if line.startswith("|")][
        :5
    ]
    assert {line.replace(r"\|", "").count("|") for line in table} == {7}


def test_cells_without_figures_are_dashes_and_unfinished_runs_are_named(lines):
    text = "\n".join(lines)
    assert "| – |" in text
    assert "interrupted at epoch 1 of 2 of the second stage" in text
    assert "[demo/crt-digits-s0](demo/crt-digits-s0/)" in text
    assert "- a: weight decay 0" in text
    assert "    fasticcl reproduce table9" in text
