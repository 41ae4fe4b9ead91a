"""Drawing classes and ordering images: equation 2, constant-time draws, permutations that need no memory."""

import math

import numpy as np
from numpy.typing import NDArray


def class_probabilities(counts: NDArray[np.integer], gamma: float) -> NDArray[np.float64]:
    """Return p(k) of equation 2, [K].

    Args:
        counts: [K] training images per class.
        gamma: γ, any real: 0 is the balanced sampler, 1 the reverse sampler, -1 as the images are.

    Raises:
        ValueError: a class without images.
    """
    counts = np.asarray(counts)
    if counts.size == 0 or counts.min() < 1:
        raise ValueError("every class needs at least one training image")
    # In logarithms, shifted by the largest, so that a large γ cannot overflow.
    log_weights = -gamma * np.log(counts.astype(np.float64))
    weights = np.exp(log_weights - log_weights.max())
    return weights / weights.sum()


class AliasTable:
    """Draws classes with given probabilities in constant time (Walker's alias method, built as by Vose)."""

    def __init__(self, probabilities: NDArray[np.float64]) -> None:
        size = len(probabilities)
        scaled = probabilities * size
        self.keep = np.ones(size)
        self.alias = np.arange(size)
        if np.allclose(scaled, 1.0, rtol=0, atol=1e-12):
            return  # equal probabilities need no table: γ = 0 with a million classes builds at once
        small = [int(k) for k in np.flatnonzero(scaled < 1)]
        large = [int(k) for k in np.flatnonzero(scaled >= 1)]
        while small and large:
            less, more = small.pop(), large[-1]
            self.keep[less], self.alias[less] = scaled[less], more
            scaled[more] -= 1 - scaled[less]
            if scaled[more] < 1:
                small.append(large.pop())

    def draw(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Return [size] classes."""
        columns = rng.integers(0, len(self.keep), size)
        return np.where(rng.random(size) < self.keep[columns], columns, self.alias[columns])


def permute(positions: NDArray[np.integer], size: int, keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return where a keyed permutation of range(size) sends ``positions``.

    A Feistel network on the smallest rectangle near a square that holds ``size`` numbers, walked where a
    value falls outside: each position costs the same whatever the size, and nothing is stored.

    Args:
        positions: values in range(size), any shape.
        size: number of elements that are permuted.
        keys: [rounds] round keys, an even number; they choose the permutation.
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
    """Return a permutation of range(rows · columns): row and column shift each other by turns."""
    row, column = np.divmod(values, columns)
    for even in range(0, len(keys), 2):
        row = (row + _mix(column ^ keys[even]) % rows) % rows
        column = (column + _mix(row ^ keys[even + 1]) % columns) % columns
    return row * columns + column


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash of each value (the finaliser of SplitMix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
