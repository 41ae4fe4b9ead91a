"""Long-tailed class counts and the class groups many, medium and few."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

MANY_ABOVE = 100
FEW_BELOW = 20


def exponential_counts(largest: int, num_classes: int, imbalance: float) -> NDArray[np.int64]:
    """Return the images per class [K], which decay exponentially from ``largest`` to ``largest / imbalance``.

    This is the profile of CIFAR-LT (section 4.1): n_k = floor(largest · imbalance^(-k / (K - 1))).

    Raises:
        ValueError: there are fewer than two classes, the imbalance is below 1, or a class would be empty.
    """
    if num_classes < 2:
        raise ValueError("a long tail needs at least two classes")
    if not imbalance >= 1:
        raise ValueError(f"the imbalance ratio must be at least 1, got {imbalance}")
    # Without the offset, rounding errors would give floor(n - ε) = n - 1 for exact integers n.
    exact = largest * (1 / imbalance) ** (np.arange(num_classes) / (num_classes - 1))
    counts = np.floor(exact + 1e-9).astype(np.int64)
    if counts.min() < 1:
        raise ValueError(
            f"the smallest class would be empty with {largest} images and imbalance ratio {imbalance}. "
            "Lower the imbalance ratio"
        )
    return counts


def class_groups(counts: NDArray[np.integer]) -> Mapping[str, NDArray[np.bool_]]:
    """Return a mask [K] for each class group, from the training images per class (section 4.2).

    Many: more than 100 images. Medium: 20 to 100 images. Few: fewer than 20 images.
    """
    counts = np.asarray(counts)
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    return {"many": many, "medium": ~many & ~few, "few": few}
