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


@pytest.mark.parametrize(
    "changed",
    [
        {"data.resample_start": 0.8},
        {"data.resample_gamma": 1},
        {"method.classifier": "cosine"},
        {"method.classifier_scale": 16},
        {"method.class_loss": "focal"},
        {"method.focal_gamma": 2},
        {"method.ldam_margin": 0.3},
        {"method.logit_adjustment_tau": 2},
        {"method.class_weight_beta": 0.9},
        {"method.class_weight_start": 0.8},
        {"method.class_weight_norm": "batch"},
        {"rebalance.readout": "tau_norm"},
        {"rebalance.tau": 0.7},
        {"rebalance.batch_norm": "train"},
        {"rebalance.class_scale": True},
        {"rebalance.classifier_lr_factor": 0.5},
        {"rebalance.smoothing_head": 0.4},
        {"rebalance.smoothing_tail": 0.1},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_runs_that_differ_in_a_part_of_the_method_are_different_groups(tmp_path, changed):
    frozen = {"rebalance.encoder": "frozen"}
    runs = [run_history(tmp_path, name, 70, set=frozen | part) for name, part in (("a", {}), ("b", changed))]
    groups = group_runs(runs)
    ((key, value),) = changed.items()
    assert [len(group.runs) for group in groups] == [1, 1]
    assert groups[1].label.startswith(f"{key.partition('.')[2]} {value}")


def test_the_recipe_is_part_of_the_label(tmp_path):
    default = run_history(tmp_path, "a", 70)
    optim = default.config.optim.model_copy(update={"recipe": "published", "lr": 0.2})
    published = dataclasses.replace(default, config=default.config.model_copy(update={"optim": optim}))
    assert labels([default, published]) == ["recipe preset", "recipe published"]
