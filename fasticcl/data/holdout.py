"""The holdout: training images withheld from training to choose settings."""

import numpy as np
from numpy.typing import NDArray


def holdout_counts(counts: NDArray[np.integer], holdout: float) -> NDArray[np.int64]:
    """Return the number of holdout images of each class, [K].

    At most half of each class is withheld, so a class with one image keeps it. If ``holdout`` is a fraction,
    at least one image of each class with two or more is withheld, because the tail must be evaluated too.

    Args:
        counts: [K] training images per class.
        holdout: a fraction of each class if below 1, else the number of images per class. 0 means none.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if not holdout:
        return np.zeros_like(counts)
    sizes = np.maximum(1, np.rint(holdout * counts)) if holdout < 1 else holdout
    return np.minimum(sizes, counts // 2).astype(np.int64)


def draw_holdout_rows(counts: NDArray[np.integer], holdout: float, seed: int) -> NDArray[np.int64]:
    """Return the sorted index rows of the holdout. The seed determines the images of each class.

    Args:
        counts: [K] training images per class. The rows of the index are sorted by class.
        holdout: as in `holdout_counts`.
        seed: seed of the run.
    """
    if not holdout:
        return np.empty(0, dtype=np.int64)
    labels = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.lexsort((np.random.Generator(np.random.Philox(key=seed)).random(len(labels)), labels))
    positions = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # in the class
    return np.sort(shuffled[positions < holdout_counts(counts, holdout)[labels]])
