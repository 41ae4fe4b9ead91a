"""A tiny benchmark of everything."""

import pytest

import fasticcl

# Sizes at which a step takes milliseconds.
TINY = {
    "images": 20,
    "batch_size": 4,
    "image_size": 16,
    "encoder": "resnet8",
    "device": "cpu",
    "workers": 1,
    "seconds": 0.01,
    "repeats": 2,
}


@pytest.fixture(scope="session")
def tiny():
    """Options of a benchmark that takes about a second."""
    return TINY


@pytest.fixture(scope="session")
def full_result():
    """Result of the benchmark `all` on synthetic images."""
    return fasticcl.benchmark("all", **TINY)
