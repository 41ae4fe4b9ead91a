"""The table of a result in LaTeX."""

import re

import pytest

from fasticcl.paper.table import PaperTable, paper_table_names
from fasticcl.reproduce.table.latex import latex, latex_text
from tests.support.reproduced_table import small_result


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    return latex(small_result(tmp_path_factory.mktemp("runs")))


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("CE* [1] <b>|_^", r"CE$^{*}$ {[}1{]} \textless{}b\textgreater{}\textbar{}\_\textasciicircum{}"),
        ("10 % & $5 #{~}\\", r"10 \% \& \$5 \#\{\textasciitilde{}\}\textbackslash{}"),
        ("γ' = 0, ω_d", r"$\gamma'$ = 0, $\omega_{\mathrm{d}}$"),
        ("L_cc^it", r"$L_{\mathrm{cc}}^{\mathrm{it}}$"),
        ("cRT†", r"cRT$^{\dagger}$"),
    ],
)
def test_text_is_escaped_and_symbols_are_math(plain, escaped):
    assert latex_text(plain) == escaped


def test_all_titles_and_notes_of_the_paper_become_ascii():
    for name in paper_table_names():
        table = PaperTable.read(name)
        texts = [
            table.title,
            table.note,
            *(row.title for row in table.rows),
            *(row.note for row in table.rows),
        ]
        texts += [column.title for column in table.columns]
        assert all(latex_text(each).isascii() for each in texts)


def test_every_line_has_as_many_cells_as_the_table_has_columns(text):
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", line)) == 5 for line in rows if "multicolumn" not in line)
    assert text.isascii()
    assert text.count(r"\begin{table*}") == text.count(r"\end{table*}") == 2


def test_lines_have_ours_the_papers_and_the_difference(text):
    ce = text[text.index("CE$") :].splitlines()
    assert r"36.7~$\pm$~1.8\textsuperscript{a}~(3) & -- &" in ce[0]
    assert ce[1].startswith(r"\quad paper & 38.3 & -- & 30.0 & 20.0 & 25.0")
    assert ce[2].startswith(r"\quad difference & $-$1.6 &  & 0.0")
