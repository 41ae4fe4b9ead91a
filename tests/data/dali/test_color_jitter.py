"""Colour jitter, compared with torchvision on Pillow images, and with the operators used on a GPU."""

import io
import itertools

import numpy as np
import pytest
from nvidia.dali import Pipeline, fn, types
from PIL import Image
from torchvision.transforms import functional as F

from fasticcl.data.dali.color_jitter import jitter_colors, saturated
from fasticcl.data.dali.pipeline import PipelineOptions
from tests.support.images import photographs


@pytest.fixture(scope="module")
def images():
    return [np.array(Image.open(io.BytesIO(content))) for content in photographs(27, seed=0)]


def drawn(low, high):
    return np.random.default_rng(0).uniform(low, high, (27, 3)).astype(np.float32)


def combinations(*factors):
    return np.array([*itertools.product(factors, repeat=3)], np.float32)


def run(graph, images, factors):
    """Return images from a graph of image and factors."""
    pipeline = Pipeline(batch_size=len(images), num_threads=2, device_id=None)
    with pipeline:
        image, colors = fn.external_source(
            source=lambda: (images, list(factors)),
            num_outputs=2,
            batch=True,
            dtype=[types.UINT8, types.FLOAT],
            ndim=[3, 1],
            layout=["HWC", None],
        )
        pipeline.set_outputs(graph(image, colors))
    pipeline.build()
    return [np.array(image) for image in pipeline.run()[0]]


def jittered(images, factors, threads=2):
    options = PipelineOptions(len(images), threads, prefetch=1, gpu=None)
    return run(lambda image, colors: jitter_colors(image, colors, options), images, factors)


def torchvision_jitter(pixels, factors):
    image = Image.fromarray(pixels)
    adjustments = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation)
    for adjust, factor in zip(adjustments, factors, strict=True):
        image = adjust(image, float(factor))
    return np.array(image)


def differences(images, others):
    return np.concatenate(
        [np.abs(image.astype(int) - other).ravel() for image, other in zip(images, others, strict=True)]
    )


@pytest.mark.parametrize(
    ("factors", "most", "largest"),
    [
        (drawn(0.6, 1.4), 1, 1),  # data.color_jitter = [0.4, 0.4, 0.4]
        (drawn(0, 2), 1, 2),
        (combinations(0, 1, 2), 1, 2),
        (combinations(0.6, 1, 1.4), 1, 2),  # 0.6 · 5 is 3 or slightly more or less
    ],
    ids=["0.6 to 1.4", "0 to 2", "0, 1, 2", "0.6, 1, 1.4"],
)
def test_photographs_match_torchvision(images, factors, most, largest):
    """``most`` and ``largest`` are the 99.5th percentile and maximum of the difference, in 8-bit levels."""
    expected = [torchvision_jitter(*pair) for pair in zip(images, factors, strict=True)]
    difference = differences(jittered(images, factors), expected)
    assert difference.mean() < 0.3
    assert np.percentile(difference, 99.5) <= most
    assert difference.max() <= largest


def test_factors_of_one_change_nothing(images):
    assert not differences(jittered(images, np.ones((27, 3), np.float32)), images).any()


@pytest.mark.parametrize("factor", [0, 0.3, 0.9, 1, 1.1, 1.7, 2])
def test_saturation_does_not_change_grey(factor):
    grey = np.arange(256, dtype=np.uint8).repeat(3 * 96).reshape(128, 192, 3)
    assert np.array_equal(saturated(grey, np.float32(factor)), grey)


def test_jitter_matches_the_operators_of_the_gpu(images, monkeypatch):
    factors = drawn(0.6, 1.4)
    monkeypatch.setattr("nvidia.dali.data_node.DataNode.gpu", lambda self: self)
    options = PipelineOptions(len(images), 2, prefetch=1, gpu=0)
    expected = run(lambda image, colors: jitter_colors(image, colors, options), images, factors)
    difference = differences(jittered(images, factors), expected)
    assert difference.max() <= 1  # the saturation operator rounds
    assert difference.mean() < 0.6


def test_result_does_not_depend_on_the_number_of_threads(images):
    factors = drawn(0.6, 1.4)
    assert not differences(jittered(images, factors), jittered(images, factors, threads=3)).any()
