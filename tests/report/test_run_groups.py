"""Groups of runs with equal settings, and their labels."""

import dataclasses
import statistics

import pytest

from fasticcl.report.run_groups import group_runs
from tests.support.run_histories import run_history


def labels(runs):
    return [group.label for group in group_runs(runs)]


def test_runs_that_differ_in_seed_and_paths_are_one_group(tmp_path):
    values = (70, 80, 84.5)
    runs = [
        run_history(tmp_path, str(seed), value, seed=seed, data=tmp_path / str(seed))
        for seed, value in enumerate(values)
    ]
    (group,) = group_runs(runs)
    assert [run.folder.name for run in group.runs] == ["0", "1", "2"]
    expected = (statistics.mean(values), statistics.stdev(values))
    assert group.mean_and_std("val/top1") == pytest.approx(expected)
    assert group.mean_and_std("val/many") is None


def test_runs_with_the_same_seed_count_once(tmp_path):
    values = ((0, 70), (0, 72), (1, 80))
    runs = [run_history(tmp_path, str(i), value, seed=seed) for i, (seed, value) in enumerate(values)]
    (group,) = group_runs(runs)
    assert group.num_seeds == 2
    assert group.mean_and_std("val/top1") == pytest.approx((75.5, statistics.stdev((71, 80))))


def test_runs_on_other_data_are_another_group(tmp_path):
    runs = [
        dataclasses.replace(run_history(tmp_path, name, 70), environments=[{"data": data}])
        for name, data in (("a", "0123"), ("b", "4567"), ("c", "0123"))
    ]
    groups = group_runs(runs)
    assert [[run.folder.name for run in group.runs] for group in groups] == [["a", "c"], ["b"]]
    assert [group.label for group in groups] == ["shards 0123", "shards 4567"]


def test_a_single_run_has_no_standard_deviation(tmp_path):
    (group,) = group_runs([run_history(tmp_path, "a", 70)])
    assert group.mean_and_std("val/top1") == (70, None)


def test_labels_name_the_settings_that_differ(tmp_path):
    default, lr, ce = (
        run_history(tmp_path, "a", 1),
        run_history(tmp_path, "b", 2, lr=0.2),
        run_history(tmp_path, "c", 3, method="ce"),
    )
    assert labels([default, lr]) == ["lr 0.05", "lr 0.2"]
    assert labels([default, ce]) == ["iccl", "ce"]
    assert len(set(labels([default, lr, ce]))) == 3


def test_labels_name_different_numbers_of_epochs_in_addition_to_the_method(tmp_path):
    runs = [run_history(tmp_path, "a", 1, epochs=9), run_history(tmp_path, "b", 2, method="ce")]
    assert labels(runs) == ["iccl, epochs 9", "ce, epochs 1"]


def test_labels_are_distinct(tmp_path):
    settings = ({}, {"lr": 0.2}, {"method": "ce"}, {"method": "ce", "lr": 0.2})
    runs = [run_history(tmp_path, str(i), 1, **options) for i, options in enumerate(settings)]
    assert len(set(labels(runs))) == 4
