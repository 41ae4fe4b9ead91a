"""Training images that are held back, for settings to be chosen on."""

import numpy as np
from numpy.typing import NDArray


def holdout_counts(counts: NDArray[np.integer], holdout: float) -> NDArray[np.int64]:
    """Return how many images of each class [K] are held back.

    Never more than half of a class, so that a class of one image keeps it; of a share, one image at least
    where there are two, since it is the tail that has to be judged.

    Args:
        counts: [K] training images per class.
        holdout: below 1 a share of each class, from 1 on images per class; 0: none.
    """
    counts = np.asarray(counts, dtype=np.int64)
    if not holdout:
        return np.zeros_like(counts)
    wanted = np.maximum(1, np.rint(holdout * counts)) if holdout < 1 else holdout
    return np.minimum(wanted, counts // 2).astype(np.int64)


def draw_holdout_rows(counts: NDArray[np.integer], holdout: float, seed: int) -> NDArray[np.int64]:
    """Return the rows of the index that are held back, sorted; which of a class is drawn by the seed.

    Args:
        counts: [K] training images per class; the rows of an index are sorted by class.
        holdout: as in `holdout_counts`.
        seed: seed of the run.
    """
    if not holdout:
        return np.empty(0, dtype=np.int64)
    labels = np.repeat(np.arange(len(counts)), counts)
    shuffled = np.lexsort((np.random.Generator(np.random.Philox(key=seed)).random(len(labels)), labels))
    place = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)  # within the class
    return np.sort(shuffled[place < holdout_counts(counts, holdout)[labels]])
