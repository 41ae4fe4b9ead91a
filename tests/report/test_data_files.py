"""``classes.csv`` and the LaTeX table."""

import csv
import re

from fasticcl.report.data_files import latex_table
from fasticcl.report.run_groups import group_runs
from tests.support.run_histories import run_history


def test_classes_csv_lists_every_class(finished_run, analysis):
    rows = [*csv.DictReader((finished_run / "classes.csv").read_text().splitlines())]
    assert [row["class"] for row in rows] == analysis.classes
    assert [int(row["right_after"]) for row in rows] == analysis.right["after"]


def test_latex_rows_have_means_and_deviations_and_escaped_labels(tmp_path):
    runs = [
        run_history(tmp_path, "a", 70.25, method="ce"),
        run_history(tmp_path, "b", 80, seed=1, method="ce"),
        run_history(tmp_path, "c", 10, few=None, set={"method.name": "my_method & more"}),
    ]
    rows = latex_table(group_runs(runs)).splitlines()[1:]
    assert rows[0] == r"ce & $75.1 \pm 6.9$ & -- & $1.0 \pm 0.0$ & $50.0 \pm 0.0$ \\"
    assert rows[1].startswith(r"my\_method \& more")
    assert re.fullmatch(r".* & 10\.0 & -- & 1\.0 & -- \\\\", rows[1])


def test_latex_special_characters_are_escaped(tmp_path):
    run = run_history(tmp_path, "a", 70, set={"method.name": "a\\b~c^d{e}#"})
    row = latex_table(group_runs([run])).splitlines()[1]
    assert row.startswith(r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}\#")


def test_an_unfinished_run_is_marked_in_the_latex_table(tmp_path):
    finished, unfinished = run_history(tmp_path, "a", 70), run_history(tmp_path, "b", 60, epochs=2)
    assert (finished.finished, unfinished.finished) == (True, False)
    assert "(unfinished)" in latex_table(group_runs([unfinished]))
    assert "(unfinished)" not in latex_table(group_runs([finished]))
