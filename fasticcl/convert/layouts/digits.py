"""The demonstration data: scikit-learn's 1,797 handwritten digits, made long-tailed."""

import numpy as np

from fasticcl.convert.layouts.pixel_arrays import pictures
from fasticcl.convert.source import Source
from fasticcl.errors import UserError
from fasticcl.longtail import exponential_counts

IMBALANCE = 50
TEST_SHARE = 0.2
TERMS = (
    "the digits are those of UCI's Optical Recognition of Handwritten Digits, whose terms are at "
    "archive.ics.uci.edu/dataset/80"
)
_SPLIT_SEED = 0  # which images are put aside is part of the data, not of a run


def read() -> Source:
    """Put a stratified fifth aside as the test split and cut the rest to an exponential profile.

    The profile starts from all remaining zeros: 142 images down to 2 nines.

    Raises:
        UserError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UserError("The demo needs scikit-learn's digits: pip install 'fasticcl[demo]'.") from None
    digits = load_digits()
    rng = np.random.default_rng(_SPLIT_SEED)
    members = [rng.permutation(np.flatnonzero(digits.target == digit)) for digit in range(10)]
    held_out = [round(len(rows) * TEST_SHARE) for rows in members]
    counts = exponential_counts(len(members[0]) - held_out[0], 10, IMBALANCE)
    test = [rows[:aside] for rows, aside in zip(members, held_out, strict=True)]
    train = [
        rows[aside : aside + count] for rows, aside, count in zip(members, held_out, counts, strict=True)
    ]
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # stored as 0 to 16
    names = [str(digit) for digit in range(10)]
    splits = {
        split: pictures(images, digits.target, np.concatenate(rows), names, split)
        for split, rows in (("train", train), ("test", test))
    }
    return Source("demo", names, splits)
