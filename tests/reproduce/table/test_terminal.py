"""The table of a result for the terminal."""

import io
from dataclasses import replace

from rich.console import Console

from fasticcl.reproduce.table.terminal import terminal_notes, terminal_table
from tests.support.reproduced_table import small_result


def test_table_has_ours_the_papers_and_the_difference_at_80_columns(tmp_path):
    result = small_result(tmp_path)
    crt = result.cells["crt", "digits"]
    result = replace(result, cells=result.cells | {("crt", "digits"): replace(crt, runs=crt.runs[1:])})
    console = Console(width=80, file=io.StringIO())
    console.print(terminal_table(result))
    lines = console.file.getvalue().replace("\xa0", " ").splitlines()
    assert max(map(len, lines)) <= 80
    (line,) = [line for line in lines if "CE*" in line]
    assert line.split()[1:] == [
        "CE*",
        "[1]",
        "<b>|_^",
        "│",
        "Overall",
        "│",
        "36.7",
        "±",
        "1.8",
        "│",
        "3",
        "│",
        "38.3",
        "│",
        "\N{MINUS SIGN}1.6",
        "│",
    ]
    assert any("1 of 3" in line and "21.0" in line for line in lines)
    assert any("1 not finished" in line for line in lines)


def test_notes_name_the_common_differences_and_the_page_with_the_others(tmp_path):
    result = small_result(tmp_path)
    _, common, others = terminal_notes(result)
    assert common == "All runs differ from the protocol of the paper: 3 epochs (paper: 50)."
    assert others == "table9.html lists the differences of single cells from the protocol of the paper."
    crt = {("crt", "digits"): result.cells["crt", "digits"]}
    assert [*terminal_notes(replace(result, cells=crt))][1:] == [common]
    same = {("crt", "digits"): replace(crt["crt", "digits"], differences=())}
    assert [*terminal_notes(replace(result, cells=result.cells | same))][1:] == [others]
    unfinished = replace(crt["crt", "digits"], runs=crt["crt", "digits"].runs[1:])
    assert [*terminal_notes(replace(result, cells={("crt", "digits"): unfinished}))] == []
