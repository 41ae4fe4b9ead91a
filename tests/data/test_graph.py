"""The graph and the loader against Pillow and torchvision with the windows of the plan."""

import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from fasticcl.config import Data
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.loader import Loader, evaluation_batches
from fasticcl.data.plan import BatchPlan, Plan
from fasticcl.shards.reader import Shards
from tests.support.images import encode, noise

PHOTOS = {"dataset": "folder", "dir": "unused", "image_size": 96, "eval_resize": 112}
SMALL = {
    "dataset": "folder",
    "dir": "unused",
    "image_size": 32,
    "crop": "pad",
    "crop_padding": 4,
    "eval_resize": 0,
}


def expected_image(shards, stream, i, data, offset=(0, 0)):
    """Return image i of a planned stream, transformed by Pillow and torchvision, in [0, 1]."""
    image = Image.open(io.BytesIO(shards.read(stream.rows[i : i + 1])[0].tobytes())).convert("RGB")
    top, left, height, width = (int(value) for value in stream.windows[i])
    image = F.crop(image, top, left, height, width)
    image = F.resize(image, [int(side) for side in stream.sizes[i]])
    top, left = (int(cut + shift) for cut, shift in zip(stream.cuts[i], offset, strict=True))
    image = F.crop(image, top, left, data.image_size, data.image_size)  # pads with black beyond the edge
    if any(data.color_jitter):
        brightness, contrast, saturation = (float(factor) for factor in stream.colors[i])
        image = F.adjust_brightness(image, brightness)
        image = F.adjust_contrast(image, contrast)
        image = F.adjust_saturation(image, saturation)
    if stream.flips[i]:
        image = F.hflip(image)
    return F.to_tensor(image)


def denormalise(images, data):
    mean, std = (torch.tensor(values)[:, None, None] for values in (data.mean, data.std))
    return images * std + mean


def open_plan(folder, batch_size=8, **settings):
    shards = Shards(folder, "train")
    data = Data(**settings)
    return shards, data, Plan(shards.index, shards.counts, data, batch_size=batch_size, seed=3)


@pytest.fixture(scope="module")
def small_shards(tmp_path_factory):
    """PNGs of 32×32 pixels in ten classes, as in CIFAR."""
    rng = np.random.default_rng(0)
    items = [Item(encode(noise(rng), "PNG"), i // 4, f"{i}.png") for i in range(40)]
    folder = tmp_path_factory.mktemp("small")
    convert(Source("folder", [str(i) for i in range(10)], {"train": items, "val": items[:7]}), folder)
    return folder


@pytest.mark.parametrize("jitter", [(0.0, 0.0, 0.0), (0.4, 0.4, 0.4)], ids=["plain", "jitter"])
def test_photographs_match_pillow_and_torchvision(photo_shards, jitter):
    shards, data, plan = open_plan(photo_shards, color_jitter=jitter, **PHOTOS)
    flipped = set()
    for step, batch in enumerate(islice(Loader(shards, plan).batches("interpolative"), plan.steps_per_epoch)):
        planned = plan.batch("interpolative", 0, step)
        images = denormalise(batch.x_h, data)
        for i in range(plan.batch_size):
            difference = images[i] - expected_image(shards, planned.agnostic, i, data)
            assert difference.abs().mean() < 1 / 255
            flipped.add(int(planned.agnostic.flips[i]))
    assert flipped == {0, 1}


def test_images_are_not_shifted(photo_shards):
    shards, data, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches("warmup"))
    planned, images = plan.batch("warmup", 0, 0).agnostic, denormalise(batch.x, data)
    inner = (slice(None), slice(4, -4), slice(4, -4))
    for i in range(4):
        errors = {}
        for offset in [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]:
            expected = expected_image(shards, planned, i, data, offset)
            errors[offset] = float((images[i][inner] - expected[inner]).abs().mean())
        others = [error for offset, error in errors.items() if offset != (0, 0)]
        assert errors[(0, 0)] < 0.5 * min(others)


def test_small_images_are_padded_and_shifted_exactly(small_shards):
    shards, data, plan = open_plan(small_shards, batch_size=20, **SMALL)
    batch = next(Loader(shards, plan).batches("warmup"))
    planned = plan.batch("warmup", 0, 0).agnostic
    images = denormalise(batch.x, data)
    for i in range(20):
        assert (images[i] - expected_image(shards, planned, i, data)).abs().max() < 1e-5
    assert np.abs(planned.cuts).max() == 4


def test_mix_is_equation_3(photo_shards):
    shards, data, plan = open_plan(photo_shards, lambda_per="sample", **PHOTOS)
    batch = next(Loader(shards, plan).batches("interpolative"))
    planned = plan.batch("interpolative", 0, 0)
    lam = torch.from_numpy(planned.lam)[:, None, None, None]
    assert torch.equal(batch.lam, torch.from_numpy(planned.lam))
    # The graph of this phase does not return x_t. That of rebalancing gives it from the same windows.
    alone = Plan(shards.index, shards.counts, data, batch_size=8, seed=3)
    alone.batch = lambda *_: BatchPlan(None, planned.aware, None)
    x_t = next(Loader(shards, alone).batches("rebalance")).x
    assert (batch.x_f - (lam * batch.x_h + (1 - lam) * x_t)).abs().max() < 1e-3


def test_rebalancing_yields_the_class_aware_stream(photo_shards):
    shards, data, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches("rebalance", epoch=2, step=1))
    planned = plan.batch("rebalance", 2, 1).aware
    assert batch.y.tolist() == planned.labels.tolist()
    expected = expected_image(shards, planned, 5, data)
    assert (denormalise(batch.x, data)[5] - expected).abs().mean() < 1 / 255


def test_evaluation_yields_each_image_once_resized_and_centre_cropped(photo_shards):
    shards, data = Shards(photo_shards, "val"), Data(**PHOTOS)
    batches = list(evaluation_batches(shards, data, batch_size=2))
    assert [len(batch.y) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.y for batch in batches]).tolist() == shards.index["label"].tolist()
    for row, image in enumerate(torch.cat([batch.x for batch in batches])):
        original = Image.open(io.BytesIO(shards.read(np.array([row]))[0].tobytes())).convert("RGB")
        expected = F.to_tensor(F.center_crop(F.resize(original, 112), 96))
        assert (denormalise(image, data) - expected).abs().mean() < 1 / 255


def test_small_images_are_evaluated_unchanged(small_shards):
    shards, data = Shards(small_shards, "val"), Data(**SMALL)
    batch = next(evaluation_batches(shards, data, batch_size=7))
    for row in range(7):
        original = Image.open(io.BytesIO(shards.read(np.array([row]))[0].tobytes()))
        assert (denormalise(batch.x[row], data) - F.to_tensor(original)).abs().max() < 1e-5


@pytest.mark.parametrize("prefetch", [1, 2, 4])
def test_prefetching_keeps_images_with_their_plan(prefetch, tmp_path):
    # Every image has one colour, which identifies its row.
    def plain(i):
        return encode(Image.new("RGB", (8, 8), (6 * i, 255 - 6 * i, 7)), "PNG")

    items = [Item(plain(i), i // 10, f"{i}.png") for i in range(40)]
    convert(Source("folder", list("abcd"), {"train": items, "val": items[:1]}), tmp_path)
    settings = SMALL | {"image_size": 8, "crop_padding": 0, "lambda_per": "sample"}
    shards, data, plan = open_plan(tmp_path, batch_size=5, **settings)
    batches = Loader(shards, plan, prefetch=prefetch).batches("interpolative", epoch=1, step=6)
    kept = list(
        islice(batches, 20)
    )  # more batches than the pipeline has buffers, none of which may be overwritten
    for number, batch in enumerate(kept):
        planned = plan.batch("interpolative", *divmod(8 + 6 + number, 8))
        rows = (denormalise(batch.x_h, data)[:, 0, 4, 4] * 255 / 6).round().int().tolist()
        assert rows == planned.agnostic.rows.tolist()
        assert batch.y_h.tolist() == planned.agnostic.labels.tolist()
        assert batch.y_t.tolist() == planned.aware.labels.tolist()
        mixed = planned.lam * planned.agnostic.rows + (1 - planned.lam) * planned.aware.rows
        assert np.allclose(denormalise(batch.x_f, data)[:, 0, 4, 4] * 255 / 6, mixed, atol=1e-3)


def test_batches_are_float32_and_channels_last(photo_shards):
    shards, _, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches("interpolative"))
    for images in (batch.x_h, batch.x_f):
        assert images.shape == (8, 3, 96, 96)
        assert images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
    assert batch.y_h.dtype == batch.y_t.dtype == torch.int64
    assert batch.lam.shape == (8,)


def test_number_of_threads_does_not_change_a_batch(photo_shards):
    shards, _, plan = open_plan(photo_shards, color_jitter=(0.4, 0.4, 0.4), **PHOTOS)
    one, two = (next(Loader(shards, plan, threads=threads).batches("interpolative")) for threads in (1, 2))
    assert torch.equal(one.x_h, two.x_h)
    assert torch.equal(one.x_f, two.x_f)
