"""Grid of settings: combinations, and which of them equals the run."""

import pytest

from fasticcl.engine.run.folder import RunFolder
from fasticcl.sweep.grid import build_grid

GAMMAS = {"rebalance.gamma": [0.0, 1.0]}


def values(run, over):
    return [point.values for point in build_grid(RunFolder.open(run), over, {})]


def test_grid_has_all_combinations_and_the_last_setting_changes_fastest(run):
    over = {"rebalance.gamma": [0, 1], "rebalance.lr_factor": [0.1, 0.2]}
    combinations = [(0, 0.1), (0, 0.2), (1, 0.1), (1, 0.2)]
    assert [tuple(point.values()) for point in values(run, over)] == combinations


def test_equal_combinations_appear_once(run):
    assert values(run, ["rebalance.gamma=0,0.0,1"]) == [{"rebalance.gamma": 0}, {"rebalance.gamma": 1}]


@pytest.mark.parametrize(
    "over", [{"rebalance.gamma": 0.5}, "rebalance.gamma=0.5", ["rebalance.gamma=0.5"]], ids=str
)
def test_a_single_value_needs_no_list(run, over):
    assert values(run, over) == [{"rebalance.gamma": 0.5}]


def test_grid_point_equals_the_run_only_if_the_fixed_settings_do(run):
    points = build_grid(RunFolder.open(run), GAMMAS, {})
    assert [point.same_as_run for point in points] == [False, True]
    changed = build_grid(RunFolder.open(run), GAMMAS, {"rebalance": {"distillation_weight": 0.1}})
    assert [point.same_as_run for point in changed] == [False, False]
