"""Long-tailed class counts and the splits many, medium and few."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

MANY_ABOVE = 100
FEW_BELOW = 20


def exponential_counts(largest: int, num_classes: int, imbalance: float) -> NDArray[np.int64]:
    """Return images per class [K] that fall exponentially from ``largest`` to ``largest / imbalance``.

    This is the profile of CIFAR-LT (section 4.1): n_k = floor(largest · imbalance^(-k / (K - 1))).

    Raises:
        ValueError: fewer than two classes, an imbalance below 1, or a class that would get no image.
    """
    if num_classes < 2:
        raise ValueError("a long tail needs at least two classes")
    if not imbalance >= 1:
        raise ValueError(f"the imbalance ratio is at least 1, got {imbalance}")
    # 0.1 ** 1 and its like come out a hair below the integer that is meant.
    exact = largest * (1 / imbalance) ** (np.arange(num_classes) / (num_classes - 1))
    counts = np.floor(exact + 1e-9).astype(np.int64)
    if counts.min() < 1:
        raise ValueError(
            f"{largest} images cannot have a tail {imbalance} times smaller; lower the imbalance ratio"
        )
    return counts


def class_groups(counts: NDArray[np.integer]) -> Mapping[str, NDArray[np.bool_]]:
    """Return which classes [K] are many, medium and few, by their training images (section 4.2).

    Many is more than 100 images, few is fewer than 20, medium is what lies between, both ends included.
    """
    counts = np.asarray(counts)
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    return {"many": many, "medium": ~many & ~few, "few": few}
