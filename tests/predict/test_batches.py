"""Laziness, memory use and limits of image batches."""

import itertools
import weakref
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fasticcl.engine.run.weights import load_model
from fasticcl.errors import TrainingFailed
from fasticcl.predict import batches
from fasticcl.predict.batches import image_batches
from fasticcl.predict.inputs import ImageInput
from fasticcl.shards import images
from fasticcl.shards.images import MAX_PIXELS
from tests.support.images import encode, photographs

PHOTO = photographs(1, seed=5)[0]


def test_endless_images_are_batched_lazily(digit_run):
    model, count = load_model(digit_run), Counter()

    def endless():
        for number in itertools.count():
            count["images"] += 1
            yield ImageInput(str(number), lambda: PHOTO)

    batches_of_five = image_batches(endless(), model.description.data, batch_size=5, threads=2, gpu=None)
    shapes = [(*batch.x.shape, batch.names[0]) for batch in itertools.islice(batches_of_five, 20)]
    batches_of_five.close()
    assert shapes == [(5, 3, 16, 16, str(5 * i)) for i in range(20)]
    assert count["images"] < 20 * 5 + 5 * 5  # reads ahead by a few batches


def test_at_most_one_full_size_image_per_thread_is_in_memory(digit_run, monkeypatch):
    alive, counts = weakref.WeakSet(), []

    class HashableArray(np.ndarray):
        """An array that a set can hold."""

        __hash__ = object.__hash__

    def decode(content):
        pixels = images.decode(content).view(HashableArray)
        alive.add(pixels)
        counts.append(len(alive))
        return pixels

    monkeypatch.setattr(batches, "decode", decode)
    data = load_model(digit_run).description.data
    inputs = [ImageInput(str(number), lambda: PHOTO) for number in range(20)]
    loaded = [*image_batches(inputs, data, batch_size=8, threads=2, gpu=None)]
    assert [len(batch.names) for batch in loaded] == [8, 8, 4]
    assert len(counts) == 20
    assert max(counts) <= 2


def test_longest_accepted_strip_stays_within_the_pixel_limit(digit_run):
    data = load_model(digit_run).description.data
    longest = MAX_PIXELS // data.eval_resize**2
    contents = [encode(Image.new("1", (width, 1)), "PNG") for width in (longest, longest + 1)]
    inputs = [ImageInput("strip", lambda content=content: content) for content in contents]
    (batch,) = image_batches(inputs, data, batch_size=2, threads=1, gpu=None)
    assert [error is None for error in batch.errors] == [True, False]


def test_exhausted_memory_is_an_error_with_the_next_action(digit_run, monkeypatch):
    def run(*_):
        raise RuntimeError(
            "Critical error in pipeline:\nencountered:\n\nCan't allocate 9 bytes on device 0.\n"
        )

    monkeypatch.setattr("fasticcl.data.dali.pipeline.GraphPipeline.run", run)
    data, image = load_model(digit_run).description.data, ImageInput("photo", lambda: PHOTO)
    with pytest.raises(TrainingFailed, match=r"^Out of memory in DALI: Can't allocate .* --batch-size"):
        next(image_batches([image], data, batch_size=1, threads=1, gpu=None))
