"""Estimates of the remaining time."""

import numpy as np
import pytest

from fasticcl.engine.progress import RELATIVE_COST, TimeEstimate, phase_costs
from fasticcl.resolve import resolve


def run(estimate, steps, now=0.0):
    """Take steps given as [(phase, count, seconds per step)] and return the time."""
    for phase, count, seconds in steps:
        for _ in range(count):
            now += seconds
            estimate.step(phase, now)
    return now


def test_each_phase_has_its_own_step_time():
    estimate = TimeEstimate({"warmup": 100, "interpolative": 100, "rebalance": 50})
    now = run(estimate, [("warmup", 100, 0.1), ("interpolative", 40, 0.3)])
    unit = 0.3 / RELATIVE_COST["interpolative"]
    assert estimate.seconds() == pytest.approx(60 * 0.3 + 50 * unit * RELATIVE_COST["rebalance"])
    run(estimate, [("interpolative", 60, 0.3), ("rebalance", 10, 0.02)], now)
    assert estimate.seconds() == pytest.approx(40 * 0.02)


def test_a_phase_that_has_not_begun_costs_more_than_the_warm_up():
    estimate = TimeEstimate({"warmup": 10, "interpolative": 10})
    run(estimate, [("warmup", 10, 1.0)])
    assert estimate.seconds() == pytest.approx(10 * RELATIVE_COST["interpolative"])


def test_slow_first_steps_do_not_count():
    estimate = TimeEstimate({"warmup": 100})
    now = run(estimate, [("warmup", 1, 60.0), ("warmup", 2, 5.0)])
    assert estimate.seconds() is None
    run(estimate, [("warmup", 7, 0.5)], now)
    assert estimate.seconds() == pytest.approx(90 * 0.5)


def test_a_resumed_run_counts_only_remaining_steps():
    estimate = TimeEstimate({"warmup": 20, "interpolative": 30, "rebalance": 10}, done=45)
    assert estimate.left == {"warmup": 0, "interpolative": 5, "rebalance": 10}
    run(estimate, [("interpolative", 4, 2.0)])
    assert estimate.seconds() == pytest.approx(1 * 2.0 + 10 * 1.0 * RELATIVE_COST["rebalance"])


def test_the_estimate_is_zero_at_the_end():
    estimate = TimeEstimate({"warmup": 5})
    run(estimate, [("warmup", 5, 1.0)])
    assert estimate.seconds() == 0


def test_translation_is_estimated_from_the_class_sizes():
    config = resolve("demo", method="m2m", assignments=["method.m2m_beta=0", "method.m2m_steps=2"])
    costs = phase_costs(config, np.array([9, 3]))
    assert costs == {**RELATIVE_COST, "translation": pytest.approx(1 + 1 / 3 * 9 / 3)}
    estimate = TimeEstimate({"warmup": 10, "translation": 4}, costs=costs)
    run(estimate, [("warmup", 10, 1.0)])
    assert estimate.seconds() == pytest.approx(4 * 2)
