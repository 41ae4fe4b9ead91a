"""Sampling of classes (equation 2) in constant time, and permutations that need no memory."""

import math

import numpy as np
from numpy.typing import NDArray


def class_probabilities(counts: NDArray[np.integer], gamma: float) -> NDArray[np.float64]:
    """Return p(k) of equation 2, [K].

    Args:
        counts: [K] training images per class.
        gamma: γ, any real number. 0 is the balanced sampler, 1 the reverse sampler, and -1 the
            distribution of the images.

    Raises:
        ValueError: a class has no images.
    """
    counts = np.asarray(counts)
    if counts.size == 0 or counts.min() < 1:
        raise ValueError("every class needs at least one training image")
    # Logarithms relative to the largest weight avoid an overflow for large γ.
    log_weights = -gamma * np.log(counts.astype(np.float64))
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


class AliasTable:
    """Constant-time sampler of classes by probability: Walker's alias method with Vose's construction.

    Args:
        probabilities: [K], with sum 1.
    """

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        size = len(probabilities)
        scaled = probabilities * size
        self.keep = np.ones(size)
        self.alias = np.arange(size)
        if np.allclose(scaled, 1.0, rtol=0, atol=1e-12):
            return  # equal probabilities need no table, which matters for γ = 0 with a million classes
        small = [int(k) for k in np.flatnonzero(scaled < 1)]
        large = [int(k) for k in np.flatnonzero(scaled >= 1)]
        while small and large:
            less, more = small.pop(), large[-1]
            self.keep[less], self.alias[less] = scaled[less], more
            scaled[more] -= 1 - scaled[less]
            if scaled[more] < 1:
                small.append(large.pop())

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Return random classes [size]."""
        columns = rng.integers(0, len(self.keep), size)
        return np.where(rng.random(size) < self.keep[columns], columns, self.alias[columns])


def permute(positions: NDArray[np.integer], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Apply a keyed permutation of range(size) to ``positions``.

    The permutation is a Feistel network on the smallest nearly square rectangle that holds ``size`` numbers.
    It is applied again to values outside the range (cycle walking). The cost of a position does not depend
    on the size, and nothing is stored.

    Args:
        positions: values in range(size), any shape.
        size: number of permuted elements.
        keys: [rounds] an even number of round keys, which select the permutation.
    """
    columns = np.uint64(max(2, math.isqrt(size - 1) + 1))
    rows = np.uint64(max(2, -(-size // int(columns))))
    values = _feistel(positions.astype(np.uint64), rows, columns, keys)
    while (outside := values >= size).any():
        values[outside] = _feistel(values[outside], rows, columns, keys)
    return values.astype(np.int64)


def _feistel(
    values: NDArray[np.uint64], rows: np.uint64, columns: np.uint64, keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Permute range(rows · columns) by alternately shifting row and column by a hash of the other."""
    row, column = np.divmod(values, columns)
    for even in range(0, len(keys), 2):
        row = (row + _mix(column ^ keys[even]) % rows) % rows
        column = (column + _mix(row ^ keys[even + 1]) % columns) % columns
    return row * columns + column


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each value: the finaliser of SplitMix64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
