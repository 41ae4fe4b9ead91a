"""The demonstration dataset: the 1,797 handwritten digits of scikit-learn, reduced to a long tail."""

import numpy as np

from fasticcl.convert.layouts.pixel_arrays import png_items
from fasticcl.convert.source import Source
from fasticcl.errors import UserError
from fasticcl.longtail import exponential_counts

IMBALANCE = 50
TEST_SHARE = 0.2
TERMS = (
    "the digits are those of UCI's Optical Recognition of Handwritten Digits, whose terms are at "
    "archive.ics.uci.edu/dataset/80"
)
_SPLIT_SEED = 0  # the test split is part of the dataset and not of a run


def read() -> Source:
    """Read the digits. A stratified fifth is the test split, and the rest is reduced to a long tail.

    Its exponential profile starts with all 142 remaining images of the digit 0 and ends with 2 images of the
    digit 9.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError(
            "The demo uses the digits of scikit-learn. Install it with: pip install 'fasticcl[demo]'"
        ) from None
    digits = load_digits()
    rng = np.random.default_rng(_SPLIT_SEED)
    members = [rng.permutation(np.flatnonzero(digits.target == digit)) for digit in range(10)]
    test_counts = [round(len(rows) * TEST_SHARE) for rows in members]
    train_counts = exponential_counts(len(members[0]) - test_counts[0], 10, IMBALANCE)
    test = [rows[:count] for rows, count in zip(members, test_counts, strict=True)]
    train = [
        rows[start : start + count]
        for rows, start, count in zip(members, test_counts, train_counts, strict=True)
    ]
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn stores 0 to 16
    names = [str(digit) for digit in range(10)]
    splits = {
        split: png_items(images, digits.target, np.concatenate(rows), names, split)
        for split, rows in (("train", train), ("test", test))
    }
    return Source("demo", names, splits)
