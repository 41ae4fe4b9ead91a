"""Crop windows and evaluation crops, compared with those of torchvision."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torchvision.transforms import CenterCrop, RandomResizedCrop, Resize

from fasticcl.config import Data
from fasticcl.data.crops import evaluation_crop, resized_crop_windows, whole
from fasticcl.data.plan import evaluation_stream
from fasticcl.shards.reader import INDEX_DTYPE


def test_whole_images_are_windows_from_the_corner():
    windows = whole(np.array([375, 1]), np.array([500, 7]))
    assert windows.tolist() == [[0, 0, 375, 500], [0, 0, 1, 7]]
    assert windows.dtype == np.int32


def test_window_of_a_strip_is_not_empty():
    rng = np.random.default_rng(0)
    windows = resized_crop_windows(rng, np.array([1000]), np.array([1]), (0.08, 1.0), (3.0, 4.0))
    assert windows.tolist() == [[499, 0, 1, 1]]


def torchvision_windows(height, width, scale, ratio, count):
    image = torch.zeros(1, height, width)
    torch.manual_seed(0)
    return np.array([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)])


@pytest.mark.parametrize(
    ("height", "width", "scale", "ratio"),
    [
        (375, 500, (0.08, 1.0), (3 / 4, 4 / 3)),
        (500, 60, (0.3, 1.0), (3 / 4, 4 / 3)),
        (40, 41, (0.6, 1.0), (0.9, 1.1)),
    ],
)
def test_windows_have_the_distribution_of_torchvision(height, width, scale, ratio):
    count = 4000
    expected = torchvision_windows(height, width, scale, ratio, count)
    rng = np.random.default_rng(0)
    drawn = resized_crop_windows(rng, np.full(count, height), np.full(count, width), scale, ratio)
    for column, name in enumerate(("top", "left", "height", "width")):
        assert stats.ks_2samp(drawn[:, column], expected[:, column]).pvalue > 1e-4, name
    areas, expected_areas = drawn[:, 2] * drawn[:, 3], expected[:, 2] * expected[:, 3]
    assert stats.ks_2samp(areas, expected_areas).pvalue > 1e-4


@pytest.mark.parametrize(("height", "width"), [(2000, 10), (10, 2000)])
def test_fallback_window_is_that_of_torchvision(height, width):
    scale, ratio = (0.9, 1.0), (3 / 4, 4 / 3)
    expected = torchvision_windows(height, width, scale, ratio, 1)[0]
    rng = np.random.default_rng(0)
    drawn = resized_crop_windows(rng, np.full(50, height), np.full(50, width), scale, ratio)
    assert (drawn == expected).all()


@given(
    height=st.integers(1, 900),
    width=st.integers(1, 900),
    scale=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(sorted),
    seed=st.integers(0, 99),
)
@settings(max_examples=200, deadline=None)
def test_windows_are_inside_the_image(height, width, scale, seed):
    rng = np.random.default_rng(seed)
    top, left, high, wide = resized_crop_windows(
        rng, np.full(8, height), np.full(8, width), tuple(scale), (3 / 4, 4 / 3)
    ).T
    assert (high > 0).all()
    assert (wide > 0).all()
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + high <= height).all()
    assert (left + wide <= width).all()


EVALUATED = {
    "height": st.integers(1, 2000),
    "width": st.integers(1, 2000),
    "side": st.sampled_from([16, 33, 224]),
    "margin": st.sampled_from([None, 0, 1, 32]),
}


@given(**EVALUATED)
@settings(max_examples=200, deadline=None)
def test_one_evaluated_image_is_cropped_as_in_a_batch(height, width, side, margin):
    resized = 0 if margin is None else side + margin
    data = Data(dataset="test", dir="unused", image_size=side, eval_resize=resized)
    index = np.zeros(1, dtype=INDEX_DTYPE)
    index["height"], index["width"] = height, width
    stream = evaluation_stream(index, np.array([0]), data)
    size, cut = evaluation_crop(height, width, data)
    assert [*size] == stream.sizes[0].tolist()
    assert [*cut] == stream.cuts[0].tolist()


@given(**EVALUATED)
@settings(max_examples=200, deadline=None)
def test_evaluation_crop_is_that_of_torchvision(height, width, side, margin):
    resized = 0 if margin is None else side + margin
    data = Data(dataset="test", dir="unused", image_size=side, eval_resize=resized)
    size, cut = evaluation_crop(height, width, data)
    # Tensors without memory: one for the shape, and one of which each pixel holds its row and column.
    image = Resize(resized or (side, side))(torch.empty(1, height, width, device="meta"))
    assert size.tolist() == [*image.shape[1:]]
    rows, columns = (torch.arange(length) for length in image.shape[1:])
    for places, first in zip((rows[:, None], columns), cut, strict=True):
        square = CenterCrop(side)(places.expand(1, *image.shape[1:]))
        assert square.shape == (1, side, side)
        assert square[0, 0, 0] == first
