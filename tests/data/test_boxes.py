"""Boxes of CutMix, compared with a loop that follows the definition, and their λ."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fasticcl.data.boxes import cutmix_boxes, share_outside


class Centres:
    """A random generator that draws the given centres."""

    def __init__(self, centres):
        self.centres = centres

    def integers(self, low, high, size):
        assert (low, size) == (0, np.shape(self.centres))
        assert np.less(self.centres, high).all()
        return np.array(self.centres)


def pasted(lam, centre, size):
    """Return True for the pixels inside of the box, by a loop over them."""
    side = math.floor(size * math.sqrt(1 - lam))
    inside = np.zeros((size, size), dtype=bool)
    for y in range(size):
        for x in range(size):
            distances = y - centre[0], x - centre[1]
            inside[y, x] = all(-(side // 2) <= distance < side // 2 for distance in distances)
    return inside


@given(
    size=st.integers(1, 40),
    draws=st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999)), min_size=1, max_size=4
    ),
)
@settings(max_examples=60, deadline=None)
def test_boxes_and_their_lambda_are_those_of_the_definition(size, draws):
    lam, centres = [draw[0] for draw in draws], [[int(size * c) for c in draw[1:]] for draw in draws]
    boxes = cutmix_boxes(Centres(centres), np.array(lam), size)
    assert boxes.dtype == np.int32
    for (top, left, height, width), outside, *drawn in zip(
        boxes.tolist(), share_outside(boxes, size), lam, centres, strict=True
    ):
        inside, expected = np.zeros((size, size), dtype=bool), pasted(*drawn, size)
        inside[top : top + height, left : left + width] = True
        assert np.array_equal(inside, expected)
        assert min(top, left, height, width) >= 0
        assert max(top + height, left + width) <= size
        assert outside == pytest.approx(1 - expected.mean())
        assert height * width or (top, left) == (size, size)


def test_boxes_of_known_centres():
    # The side is 32·√0.75 = 27.7, so 26 pixels.
    centres = [[16, 16], [0, 31], [5, 20], [16, 16], [3, 9], [7, 7]]
    boxes = cutmix_boxes(Centres(centres), np.array([0.25, 0.25, 0.25, 0.0, 1.0, 0.9971]), 32)
    assert boxes.tolist() == [
        [3, 3, 26, 26],
        [0, 18, 13, 14],
        [0, 7, 18, 25],
        [0, 0, 32, 32],
        [32, 32, 0, 0],  # λ = 1
        [32, 32, 0, 0],  # a side of 1 pixel
    ]
    expected = [1 - 676 / 1024, 1 - 182 / 1024, 1 - 450 / 1024, 0, 1, 1]
    assert share_outside(boxes, 32).tolist() == expected


def test_centres_are_uniform_over_the_pixels():
    lam = np.full(20_000, 0.95)  # half of the side: 3 pixels
    boxes = cutmix_boxes(np.random.default_rng(0), lam, 32)
    for axis in (0, 1):
        first, length = boxes[:, axis], boxes[:, 2 + axis]
        centres = np.where(first > 0, first + 3, length - 3)
        values, seen = np.unique(centres, return_counts=True)
        assert values.tolist() == list(range(32))
        assert stats.chisquare(seen).pvalue > 1e-4
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    assert abs(np.corrcoef(centres.T)[0, 1]) < 0.05
