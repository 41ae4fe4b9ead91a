"""Splits of the demonstration dataset."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from fasticcl.convert.layouts import digits


def test_the_training_split_is_long_tailed_and_the_test_split_stratified():
    splits = digits.read().splits
    counts = {split: np.bincount([item.label for item in items]).tolist() for split, items in splits.items()}
    assert counts["train"] == sorted(counts["train"], reverse=True)
    assert (counts["train"][0], counts["train"][-1], sum(counts["train"])) == (142, 2, 392)
    assert counts["test"] == [round(count * 0.2) for count in np.bincount(load_digits().target)]


def test_every_digit_is_used_once_with_its_pixels():
    splits = digits.read().splits
    rows = [int(item.name.split("/")[2]) for items in splits.values() for item in items]
    assert len(set(rows)) == len(rows)
    item = splits["test"][17]
    expected = load_digits().images[int(item.name.split("/")[2])] * 255 / 16
    assert np.abs(np.asarray(Image.open(io.BytesIO(item.read()))) - expected).max() <= 0.5
