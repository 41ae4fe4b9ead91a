"""The images of the DALI graph, compared with those of Pillow and torchvision for the same plan."""

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
from fasticcl.data.dali import graph
from fasticcl.data.dali.graph_inputs import GraphSpec
from fasticcl.data.dali.pipeline import PipelineOptions
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.loader import Loader
from fasticcl.data.plan import BatchPlan, Plan
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import Shards
from tests.support.images import encode, noise
from tests.support.planned_images import (
    PHOTOS,
    SMALL,
    denormalise,
    expected_image,
    open_plan,
    with_boxes,
)


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


def test_whole_images_that_are_decoded_and_cut_equal_decoded_regions(photo_shards):
    batches = []
    for decode_regions in (True, False):
        shards, _, plan = open_plan(photo_shards, decode_regions=decode_regions, **PHOTOS)
        batches.append(next(Loader(shards, plan).batches("warmup")))
    assert torch.equal(batches[0].x, batches[1].x)


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


@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
def test_cutmix_is_exact_for_small_images(small_shards, lambda_per):
    settings = SMALL | {"mixing": "cutmix", "lambda_per": lambda_per, "mixing_probability": 0.4}
    shards, data, plan = open_plan(small_shards, batch_size=20, **settings)
    seen = set()
    for step, batch in zip(range(5), Loader(shards, plan).batches("interpolative"), strict=False):
        planned = plan.batch("interpolative", *divmod(step, 2))
        x_h, x_t = (
            torch.stack([expected_image(shards, stream, i, data) for i in range(20)]).permute(0, 2, 3, 1)
            for stream in planned.streams
        )
        expected = with_boxes(x_h, x_t, planned.boxes)
        images = denormalise(batch.x_f, data).permute(0, 2, 3, 1)
        assert torch.equal((255 * images).round().byte(), (255 * expected).round().byte())
        assert (images - expected).abs().max() < 1e-5
        assert torch.equal(batch.lam, torch.from_numpy(planned.lam))
        assert torch.equal(batch.x_f[planned.lam == 1], batch.x_h[planned.lam == 1])
        seen |= {*(planned.lam == 1).tolist()}
    assert seen == {True, False}


def test_cutmix_pastes_augmented_photographs(photo_shards):
    settings = PHOTOS | {"lambda_per": "sample", "color_jitter": (0.4, 0.4, 0.4)}
    batches, boxes = [], None
    for mixing in ("none", "cutmix"):
        shards, _, plan = open_plan(photo_shards, mixing=mixing, **settings)
        batches.append(next(Loader(shards, plan).batches("interpolative")))
        boxes = plan.batch("interpolative", 0, 0).boxes
    pair, mixed = batches
    assert torch.equal(mixed.x_h, pair.x_h)
    assert torch.equal(mixed.y_t, pair.y_t)
    x_h, x_t = (images.permute(0, 2, 3, 1) for images in (pair.x_h, pair.x_t))
    assert torch.equal(mixed.x_f.permute(0, 2, 3, 1), with_boxes(x_h, x_t, boxes))
    assert mixed.x_f.is_contiguous(memory_format=torch.channels_last)


def test_small_images_are_evaluated_unchanged(small_shards):
    shards, data = Shards(small_shards, "val"), Data(**SMALL)
    batch = next(evaluation_batches(shards, data, batch_size=7))
    for row in range(7):
        original = Image.open(io.BytesIO(shards.read(np.array([row]))[0].tobytes()))
        assert (denormalise(batch.x[row], data) - F.to_tensor(original)).abs().max() < 1e-5


@pytest.mark.skipif(torch.cuda.is_available(), reason="the error of a machine without a GPU")
def test_pipeline_that_cannot_be_created_fails_with_the_reason(photo_shards):
    spec = GraphSpec.prediction(Data(dataset="folder", dir=photo_shards))
    with pytest.raises(
        TrainingFailed, match=r"^The GPU or its driver failed in DALI: .*Run `fasticcl doctor`"
    ):
        graph.build(lambda _: [], spec, PipelineOptions(1, 1, 1, gpu=0))
