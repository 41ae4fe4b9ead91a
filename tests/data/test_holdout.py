"""Size and images of the holdout, and plans that never draw them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.config import Data
from fasticcl.data.holdout import draw_holdout_rows, holdout_counts
from fasticcl.data.plan import PHASES, Plan
from fasticcl.data.sampling import class_probabilities

COUNTS = st.lists(st.integers(1, 60), min_size=2, max_size=12).map(np.array)
HOLDOUTS = st.one_of(st.floats(0.001, 0.999), st.integers(1, 40))


def index_of(counts):
    index = np.zeros(counts.sum(), dtype=[("label", "<i4"), ("height", "<i4"), ("width", "<i4")])
    index["label"], index["height"], index["width"] = np.repeat(np.arange(len(counts)), counts), 40, 50
    return index


def plan_of(counts, holdout_rows, seed=0, **options):
    data = Data(dataset="demo", dir="unused", image_size=8)
    options = {"batch_size": 4, "rebalance_gamma": 1.0} | options
    return Plan(index_of(counts), counts, data, seed=seed, holdout_rows=holdout_rows, **options)


@pytest.mark.parametrize(
    ("holdout", "expected"),
    [
        (0, [0, 0, 0, 0, 0, 0]),
        (0.1, [10, 2, 1, 1, 1, 0]),  # at least one image of a class of two or more
        (0.2, [20, 4, 1, 1, 1, 0]),
        (0.9, [50, 10, 2, 1, 1, 0]),  # at most half of a class
        (1, [1, 1, 1, 1, 1, 0]),
        (5, [5, 5, 2, 1, 1, 0]),
    ],
)
def test_holdout_is_a_fraction_or_a_number_of_each_class(holdout, expected):
    assert holdout_counts(np.array([100, 20, 5, 3, 2, 1]), holdout).tolist() == expected


@settings(deadline=None)
@given(COUNTS, HOLDOUTS, st.integers(0, 2**63 - 1))
def test_holdout_rows_have_the_counts_of_each_class(counts, holdout, seed):
    rows = draw_holdout_rows(counts, holdout, seed)
    assert (np.diff(rows) > 0).all()
    of_class = np.bincount(np.repeat(np.arange(len(counts)), counts)[rows], minlength=len(counts))
    assert np.array_equal(of_class, holdout_counts(counts, holdout))
    assert np.array_equal(rows, draw_holdout_rows(counts, holdout, seed))


def test_holdout_is_drawn_uniformly_from_the_images_of_a_class():
    holdouts = [draw_holdout_rows(np.array([5, 2]), 2, seed) for seed in range(2000)]
    times = np.bincount(np.concatenate(holdouts), minlength=7)
    expected = np.array([800] * 5 + [1000] * 2)
    assert (abs(times - expected) < 5 * np.sqrt(expected)).all()


@settings(max_examples=30, deadline=None)
@given(COUNTS, HOLDOUTS)
def test_plan_never_draws_holdout_rows_and_draws_all_others(counts, holdout):
    holdout_rows = draw_holdout_rows(counts, holdout, 0)
    size = int(counts.sum()) - len(holdout_rows)
    plan = plan_of(counts, holdout_rows, batch_size=1)
    assert plan.steps_per_epoch == size
    epoch = [plan.agnostic_rows("warmup", 3, step)[0] for step in range(size)]
    assert sorted(epoch) == np.setdiff1d(np.arange(counts.sum()), holdout_rows).tolist()
    assert plan.rows.tolist() == sorted(epoch)
    for phase in ("interpolative", "rebalance"):
        drawn = np.concatenate([plan.aware_rows(phase, 1, step) for step in range(9)])
        assert not np.isin(drawn, holdout_rows).any()
    for label in range(len(counts)):
        of_class = np.flatnonzero(plan.index["label"] == label)
        assert plan.rows_of(label).tolist() == np.setdiff1d(of_class, holdout_rows).tolist()
        assert plan.substitute(of_class[0], "rebalance", 0, 0, 0).rows[0] in plan.rows_of(label)


def test_holdout_does_not_change_class_frequencies():
    counts = np.array([40, 9, 2])
    plan = plan_of(counts, draw_holdout_rows(counts, 0.5, 0), batch_size=15)
    labels = np.concatenate([plan.batch("rebalance", 0, step).aware.labels for step in range(1000)])
    shares = np.bincount(labels, minlength=3) / len(labels)
    assert shares == pytest.approx(class_probabilities(counts, 1.0), abs=0.015)


def test_plan_with_an_empty_holdout_equals_the_plan_without_one():
    counts = np.array([12, 5, 3])
    plain = Plan(index_of(counts), counts, Data(dataset="demo", dir="unused"), batch_size=4, seed=3)
    other = plan_of(counts, draw_holdout_rows(counts, 0, 3), seed=3)
    for phase in PHASES:
        one, two = plain.batch(phase, 2, 1), other.batch(phase, 2, 1)
        assert [s.rows.tolist() for s in one.streams] == [s.rows.tolist() for s in two.streams]


def test_batch_larger_than_the_remaining_images_is_rejected():
    counts = np.array([6, 4])
    with pytest.raises(ValueError, match="a batch of 6 is larger than the 5 training images"):
        plan_of(counts, draw_holdout_rows(counts, 0.5, 0), batch_size=6)
