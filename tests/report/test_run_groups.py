import dataclasses
import json
import re
import statistics

import numpy as np
import pytest

import fasticcl
from fasticcl.report.data_files import latex_table
from fasticcl.report.run_figures import _running_mean
from fasticcl.report.run_groups import group_runs
from fasticcl.report.run_history import RunHistory, read_history

KEYS = ("val/top1", "val/many", "val/medium", "val/few")


def record(tmp_path, name, top1, few=50.0, **options):
    lengths = {"epochs": 1, "set": {"rebalance.epochs": 0, **options.pop("set", {})}}
    config = fasticcl.configure("demo", **{"data": tmp_path, **lengths, **options})
    epoch = {"stage": "representation", "phase": "warmup", "epoch": 1, "val/top1": top1, "val/few": few}
    return RunHistory(tmp_path / name, config, [{**epoch, "val/many": None, "val/medium": 1.0}])


def test_runs_that_differ_in_seed_and_place_are_one_experiment(tmp_path):
    values = enumerate((70, 80, 84.5))
    runs = [
        record(tmp_path, str(seed), value, seed=seed, data=tmp_path / str(seed)) for seed, value in values
    ]
    (each,) = group_runs(runs)
    assert [run.folder.name for run in each.runs] == ["0", "1", "2"]
    mean, deviation = each.mean_and_std("val/top1")
    assert mean == pytest.approx(statistics.mean((70, 80, 84.5)))
    assert deviation == pytest.approx(statistics.stdev((70, 80, 84.5)))
    assert each.mean_and_std("val/many") is None


def test_runs_of_one_seed_count_once(tmp_path):
    values = ((0, 70), (0, 72), (1, 80))
    runs = [record(tmp_path, str(i), value, seed=seed) for i, (seed, value) in enumerate(values)]
    (each,) = group_runs(runs)
    assert each.num_seeds == 2
    assert each.mean_and_std("val/top1") == pytest.approx((75.5, statistics.stdev((71, 80))))


def test_runs_on_other_data_are_another_experiment(tmp_path):
    runs = [
        dataclasses.replace(record(tmp_path, name, 70), environments=[{"data": data}])
        for name, data in (("a", "0123"), ("b", "4567"), ("c", "0123"))
    ]
    groups = group_runs(runs)
    assert [[run.folder.name for run in each.runs] for each in groups] == [["a", "c"], ["b"]]
    assert [each.label for each in groups] == ["shards 0123", "shards 4567"]


def test_an_unfinished_run_is_named_and_enters_no_mean(tmp_path):
    whole, part = record(tmp_path, "a", 70), record(tmp_path, "b", 60, epochs=2)
    assert (whole.finished, part.finished) == (True, False)
    assert "(unfinished)" in latex_table(group_runs([part]))
    assert "(unfinished)" not in latex_table(group_runs([whole]))


def test_letters_that_latex_reads_as_commands_are_escaped(tmp_path):
    odd = record(tmp_path, "a", 70, set={"method.name": "a\\b~c^d{e}#"})
    row = latex_table(group_runs([odd])).splitlines()[1]
    assert row.startswith(r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}d\{e\}\#")


def test_a_single_run_has_no_deviation(tmp_path):
    (each,) = group_runs([record(tmp_path, "a", 70)])
    assert each.mean_and_std("val/top1") == (70, None)


def test_groups_are_named_by_what_sets_them_apart(tmp_path):
    runs = [record(tmp_path, "a", 1), record(tmp_path, "b", 2, lr=0.2), record(tmp_path, "c", 3, method="ce")]
    first, second, third = group_runs(runs)
    assert (first.label, third.label) != (second.label, first.label)
    two = group_runs(runs[:2])
    assert [each.label for each in two] == ["lr 0.05", "lr 0.2"]
    assert [each.label for each in group_runs([runs[0], runs[2]])] == ["iccl", "ce"]


def test_a_longer_training_is_named_beside_the_method(tmp_path):
    runs = [record(tmp_path, "a", 1, epochs=9), record(tmp_path, "b", 2, method="ce")]
    assert [each.label for each in group_runs(runs)] == ["iccl, epochs 9", "ce, epochs 1"]


def test_labels_tell_every_two_groups_apart(tmp_path):
    runs = [
        record(tmp_path, str(number), 1, **options)
        for number, options in enumerate(({}, {"lr": 0.2}, {"method": "ce"}, {"method": "ce", "lr": 0.2}))
    ]
    labels = [each.label for each in group_runs(runs)]
    assert len(set(labels)) == 4


def test_latex_rows_hold_mean_and_deviation_and_are_escaped(tmp_path):
    runs = [record(tmp_path, "a", 70.25, method="ce"), record(tmp_path, "b", 80, seed=1, method="ce")]
    odd = record(tmp_path, "c", 10, few=None, set={"method.name": "my_method & more"})
    rows = latex_table(group_runs([*runs, odd])).splitlines()[1:]
    assert rows[0] == r"ce & $75.1 \pm 6.9$ & -- & $1.0 \pm 0.0$ & $50.0 \pm 0.0$ \\"
    assert rows[1].startswith(r"my\_method \& more")
    assert re.fullmatch(r".* & 10\.0 & -- & 1\.0 & -- \\\\", rows[1])


def test_the_running_mean_follows_the_sizes_and_passes_over_what_is_missing():
    sizes = np.array([5, 1, 3, 4, 2, 6])
    values = np.array([50.0, 10.0, 30.0, np.nan, 20.0, 60.0])
    x, y = _running_mean(sizes, values)
    assert x.tolist() == [1, 2, 3, 5, 6]
    assert y.tolist() == [10, 20, 30, 50, 60]
    many = np.arange(150)
    x, y = _running_mean(many, many * 2.0)
    assert len(x) == 150 - 10 + 1
    assert y == pytest.approx(2 * x)
    assert x[0] == pytest.approx(np.mean(many[:10]))


def test_a_comparison_is_written_with_every_run_in_it(tmp_path, tiny_shards):
    from tests.support.small_runs import start_tiny

    runs = [
        start_tiny(tiny_shards, tmp_path, epochs=1, name=f"{seed}-{lr}", seed=seed, lr=lr).run
        for seed, lr in ((0, 0.05), (1, 0.05), (0, 0.01))
    ]
    page = fasticcl.report(*runs, output=tmp_path / "both")
    found = json.loads((tmp_path / "both/report.json").read_text())["groups"]
    assert [each["label"] for each in found] == ["lr 0.05", "lr 0.01"]
    assert [[run["run"] for run in each["runs"]] for each in found] == [["0-0.05", "1-0.05"], ["0-0.01"]]
    finals = [read_history(run).final_accuracies["val/top1"] for run in runs[:2]]
    wanted = [statistics.mean(finals), statistics.stdev(finals)]
    assert found[0]["statistics"]["val/top1"] == pytest.approx(wanted)
    assert page == tmp_path / "both/report.html"
    assert len([*(tmp_path / "both/figures").glob("*.svg")]) == 4
    assert (tmp_path / "both/table.tex").read_text().count("\\\\") == 2
