"""The result of a table: means, deviations, differences and the states of cells."""

from dataclasses import replace

import numpy as np
import pytest

from fasticcl.paper.table import PaperTable
from fasticcl.reproduce.result import SeedStatistic, table_result
from fasticcl.reproduce.table import data_facts, wording
from tests.support.reproduced_table import (
    CE,
    TABLE,
    epoch_differences,
    plan_of,
    small_result,
    write_manifest,
    write_run,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return small_result(tmp_path_factory.mktemp("runs"))


def metric(result, row, name):
    return next(each for each in result.cells[row, "digits"].metrics if each.metric == name)


def test_mean_and_sample_deviation_are_those_of_numpy(result):
    overall = metric(result, "ce", "overall")
    assert overall.last.mean == pytest.approx(np.mean(CE))
    assert overall.last.std == pytest.approx(np.std(CE, ddof=1))
    assert overall.difference("last") == pytest.approx(np.mean(CE) - 38.3)
    assert overall.last.values == dict(enumerate(CE))
    assert metric(result, "ce", "few").last.std == pytest.approx(1.0)


def test_best_epoch_has_the_highest_overall_accuracy_and_the_groups_of_that_epoch(result):
    overall, few = metric(result, "ce", "overall"), metric(result, "ce", "few")
    assert overall.best.mean == pytest.approx(np.mean(CE) + 2)
    assert overall.difference("best") == pytest.approx(np.mean(CE) + 2 - 38.3)
    assert few.best.mean == 8.0
    assert [run.best.epoch for run in result.cells["ce", "digits"].runs] == [2, 2, 2]
    assert [run.last.epoch for run in result.cells["ce", "digits"].runs] == [3, 3, 3]


def test_only_finished_runs_are_in_a_mean(result):
    cell = result.cells["crt", "digits"]
    assert [run.state for run in cell.runs] == ["finished", "interrupted", "missing"]
    assert cell.finished == 1
    assert metric(result, "crt", "overall").last == SeedStatistic({0: 43.0})
    assert metric(result, "crt", "overall").last.std is None
    assert metric(result, "crt", "overall").best.mean == 44.0


def test_before_rows_have_the_accuracy_before_the_second_stage(result):
    overall = metric(result, "before", "overall")
    assert overall.last.values == {0: 21.0}
    assert overall.best.values == {0: 22.0}
    assert overall.difference("last") == pytest.approx(21.0 - 40.0)


def test_missing_groups_and_figures_have_no_mean_and_no_difference(result):
    many = metric(result, "ce", "many")
    assert (many.last.mean, many.last.std, many.paper, many.difference("last")) == (None, None, None, None)


def test_tail_needs_the_shards(result):
    assert metric(result, "ce", "tail").last.mean is None
    assert result.cells["ce", "digits"].data is None


def test_tail_is_the_mean_over_the_classes_of_both_groups(tmp_path):
    # Medium: 4 classes, of which one has no image in the evaluated split. Few: 2 classes.
    write_manifest(tmp_path / "shards", [200, 100, 50, 30, 20, 19, 3], [9, 9, 9, 0, 9, 9, 9])
    result = small_result(tmp_path)
    expected = [(3 * 30.0 + 2 * (10.0 + seed)) / 5 for seed in range(3)]
    tail = metric(result, "ce", "tail")
    assert tail.last.mean == pytest.approx(np.mean(expected))
    assert tail.difference("last") == pytest.approx(np.mean(expected) - 25.0)


def test_differences_of_all_cells_are_separated_from_those_of_some(result):
    assert result.common == ("3 epochs (paper: 50)",)
    assert result.own_differences(result.cells["ce", "digits"]) == ["weight decay 0 (paper: 5e-4)"]
    assert result.own_differences(result.cells["crt", "digits"]) == []


def test_choice_of_images_is_a_difference(tmp_path):
    write_manifest(tmp_path / "shards", [200, 30], [9, 9], subset="another seed")
    assert small_result(tmp_path).common == ("another seed", "3 epochs (paper: 50)")


def test_images_with_a_note_are_a_difference(tmp_path, monkeypatch):
    """The note may come from the class counts alone, without a named choice in the manifest."""
    monkeypatch.setattr(data_facts, "subset_note", lambda _: "another choice")
    write_manifest(tmp_path / "shards", [200, 30], [9, 9])
    assert small_result(tmp_path).common == ("another choice", "3 epochs (paper: 50)")


def test_rows_and_columns_are_those_of_the_plan_in_the_order_of_the_paper(tmp_path):
    table = PaperTable.parse("table9", TABLE)
    plan = plan_of(table, tmp_path)
    part = type(plan)([*reversed(plan.cells[3:])], [*reversed(plan.jobs[3:])], ["no shards"])
    result = table_result(part, table, differences=epoch_differences)
    assert [row.name for row in result.rows] == ["before", "crt"]
    assert [run.seed for run in result.cells["crt", "digits"].runs] == [0, 1, 2]
    assert result.problems == ("no shards",)


def test_columns_that_the_paper_does_not_have_are_other_data(tmp_path):
    write_manifest(tmp_path / "shards", [200, 30], [9, 9], subset="another seed")
    table = PaperTable.parse("table1", TABLE)
    other = table_result(plan_of(table, tmp_path), table, differences=epoch_differences)
    assert other.on_other_data
    assert other.common == ("3 epochs (preset: 50)",)
    assert wording.heading(other) == "Table 1 on Digits, 10 %"
    assert wording.protocol_note(other).startswith("All runs differ from the preset of the dataset: 3 epochs")
    paper = PaperTable.read("table1")
    plan = plan_of(replace(paper, rows=paper.rows[:1]), tmp_path, seeds=1)
    assert not table_result(plan, paper).on_other_data


def test_cells_that_share_a_run_have_one_run(tmp_path):
    table = PaperTable.parse("table9", TABLE)
    plan = plan_of(table, tmp_path, seeds=1)
    before, crt = plan.jobs[1:]
    shared = type(crt)(crt.config, (before.cells[0], crt.cells[0]))
    write_run(crt.config, [[21.0, None, 1.0, 1.0]] * 3, [[40.0, None, 1.0, 1.0]] * 2)
    result = table_result(
        type(plan)(plan.cells, [plan.jobs[0], shared]), table, differences=epoch_differences
    )
    assert len(result.runs) == 2
    assert metric(result, "before", "overall").last.values == {0: 21.0}
    assert metric(result, "crt", "overall").last.values == {0: 40.0}


def test_failures_are_those_of_unfinished_runs(tmp_path):
    table = PaperTable.parse("table9", TABLE)
    plan = plan_of(table, tmp_path, seeds=1)
    write_run(plan.jobs[0].config, [[35.0, None, 1.0, 1.0]] * 3)
    failures = {job.folder: "out of memory" for job in plan.jobs}
    result = table_result(plan, table, differences=epoch_differences, failures=failures)
    assert [cell.runs[0].state for cell in result.cells.values()] == ["finished", "failed", "failed"]
    assert result.cells["crt", "digits"].runs[0].status == "failed: out of memory"
