"""Comparisons of several runs."""

import statistics

import pytest

import fasticcl
from fasticcl.errors import UserError
from fasticcl.report.comparison import comparison_sections
from fasticcl.report.run_groups import group_runs
from fasticcl.report.run_history import read_history
from tests.support.report_files import read_json
from tests.support.run_histories import run_history
from tests.support.small_runs import train_tiny


def test_a_comparison_contains_every_run(tmp_path, tiny_shards):
    runs = [
        train_tiny(tiny_shards, tmp_path, epochs=1, name=f"{seed}-{lr}", seed=seed, lr=lr).run
        for seed, lr in ((0, 0.05), (1, 0.05), (0, 0.01))
    ]
    output = tmp_path / "both"
    assert fasticcl.report(*runs, output=output) == output / "report.html"
    groups = read_json(output)["groups"]
    assert [group["label"] for group in groups] == ["lr 0.05", "lr 0.01"]
    assert [[run["run"] for run in group["runs"]] for group in groups] == [["0-0.05", "1-0.05"], ["0-0.01"]]
    final = [read_history(run).final_accuracies["val/top1"] for run in runs[:2]]
    expected = [statistics.mean(final), statistics.stdev(final)]
    assert groups[0]["statistics"]["val/top1"] == pytest.approx(expected)
    assert len([*(output / "figures").glob("*.svg")]) == 4
    assert (output / "table.tex").read_text().count("\\\\") == 2


def test_a_comparison_names_the_parts_of_each_method(tmp_path):
    focal = {"method.name": "focal", "method.class_loss": "focal"}
    runs = [run_history(tmp_path, "a", 70, set=focal), run_history(tmp_path, "b", 60, method="ce")]
    (comparison, _) = comparison_sections(group_runs(runs), [])
    assert [[cell.text for cell in row] for row in comparison.tables[1].rows] == [
        ["focal", "loss focal (γ = 1)"],
        ["ce", "–"],
    ]
    (plain, _) = comparison_sections(group_runs(runs[1:]), [])
    assert len(plain.tables) == 1


def test_an_unfinished_run_is_not_compared(run, finished_run, tmp_path):
    lines = [line for line in (run / "metrics.jsonl").read_text().splitlines() if "rebalancing" not in line]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"is not finished, so it cannot be compared\. .* --resume"):
        fasticcl.report(run, finished_run, output=tmp_path / "both")
    assert not (tmp_path / "both").exists()
