"""Class probabilities, the alias table and keyed permutations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fasticcl.data.sampling import AliasTable, class_probabilities, permute
from tests.support import oracle

COUNTS = [400, 120, 37, 6, 1]


@pytest.mark.parametrize("gamma", [-1.0, -0.3, 0.0, 0.5, 1.0, 2.5])
def test_class_probabilities_are_equation_2(gamma):
    assert np.allclose(
        class_probabilities(np.array(COUNTS), gamma), oracle.class_probabilities(COUNTS, gamma), rtol=1e-12
    )


def test_extreme_gamma_does_not_overflow():
    assert class_probabilities(np.array([10**6, 1]), 400.0).tolist() == [0, 1]
    assert class_probabilities(np.array([10**6, 1]), -400.0).tolist() == [1, 0]


@pytest.mark.parametrize("counts", [[], [5, 0, 1]])
def test_class_without_images_is_rejected(counts):
    with pytest.raises(ValueError, match="every class needs at least one training image"):
        class_probabilities(np.array(counts, dtype=np.int64), 0.0)


@given(weights=st.lists(st.floats(1e-6, 1.0), min_size=1, max_size=60))
@settings(max_examples=200, deadline=None)
def test_alias_table_has_exactly_the_given_probabilities(weights):
    probabilities = np.array(weights) / sum(weights)
    table = AliasTable(probabilities)
    totals = table.keep.copy()
    np.add.at(totals, table.alias, 1 - table.keep)
    assert np.allclose(totals / len(weights), probabilities, atol=1e-12)


def test_alias_table_draws_the_given_probabilities():
    probabilities = np.array([0.5, 0.3, 0.15, 0.05])
    drawn = AliasTable(probabilities).draw(np.random.default_rng(0), 100_000)
    assert stats.chisquare(np.bincount(drawn, minlength=4), 100_000 * probabilities).pvalue > 1e-4


@given(size=st.integers(1, 2000), seed=st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_permutation_contains_every_element_once_and_is_computed_per_position(size, seed):
    keys = np.random.default_rng(seed).integers(0, 2**64, 8, dtype=np.uint64)
    permuted = permute(np.arange(size), size, keys)
    assert sorted(permuted) == list(range(size))
    assert permute(np.array([size // 2]), size, keys) == permuted[size // 2]


def test_all_permutations_of_four_are_equally_likely():
    rng = np.random.default_rng(3)
    orders = [
        tuple(permute(np.arange(4), 4, rng.integers(0, 2**64, 8, dtype=np.uint64))) for _ in range(12_000)
    ]
    seen = np.unique(orders, axis=0, return_counts=True)[1]
    assert len(seen) == 24
    assert stats.chisquare(seen).pvalue > 1e-4


@pytest.mark.parametrize("size", [7, 100])
def test_every_element_is_equally_likely_at_every_position(size):
    rng = np.random.default_rng(5)
    keys = rng.integers(0, 2**64, (60 * size, 8), dtype=np.uint64)
    orders = np.array([permute(np.arange(size), size, key) for key in keys])
    table = np.zeros((size, size))
    np.add.at(table, (np.tile(np.arange(size), len(orders)), orders.ravel()), 1)
    assert stats.chisquare(table.ravel(), ddof=2 * size - 2).pvalue > 1e-4
