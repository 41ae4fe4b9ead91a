"""The loader: batches that follow the plan."""

from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.loader import Loader, draw_stream
from tests.support.images import encode
from tests.support.planned_images import PHOTOS, SMALL, denormalise, expected_image, open_plan


def test_rebalancing_yields_the_class_aware_stream(photo_shards):
    shards, data, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches("rebalance", epoch=2, step=1))
    planned = plan.batch("rebalance", 2, 1).aware
    assert batch.y.tolist() == planned.labels.tolist()
    expected = expected_image(shards, planned, 5, data)
    assert (denormalise(batch.x, data)[5] - expected).abs().mean() < 1 / 255


@pytest.mark.parametrize(("phase", "prefetch"), [("warmup", 4), ("interpolative", 1)])
def test_prefetching_loader_switches_to_resampling_at_the_first_step_of_its_epoch(tmp_path, phase, prefetch):
    """The loader of the LDAM authors never applies its new sampler (issue 7 of kaidic/LDAM-DRW)."""
    # Every image has one colour, which identifies its row.
    encoded = [encode(Image.new("RGB", (8, 8), (6 * i, 255 - 6 * i, 7)), "PNG") for i in range(40)]
    labels = np.repeat(np.arange(4), [28, 8, 3, 1])
    items = [Item(encoded[i], int(labels[i]), f"{i}.png") for i in range(40)]
    convert(Source("folder", list("abcd"), {"train": items, "val": items[:1]}), tmp_path)
    settings = SMALL | {"image_size": 8, "crop_padding": 0, "resample_gamma": 0.0}
    shards, data, plan = open_plan(tmp_path, batch_size=5, resample_epoch=2, **settings)
    batches = islice(Loader(shards, plan, prefetch=prefetch).batches(phase, epoch=1), 8 * 11)
    images = [getattr(batch, "x" if phase == "warmup" else "x_h") for batch in batches]
    colors = [(denormalise(x, data)[:, 0, 4, 4] * 255 / 6).round().int().tolist() for x in images]
    before, after = np.concatenate(colors[:8]), np.concatenate(colors[8:])
    assert sorted(before) == list(range(40))
    assert stats.chisquare(np.bincount(labels[after], minlength=4)).pvalue > 1e-3
    assert colors[7] == plan.agnostic_rows(phase, 1, 7).tolist()
    assert colors[8] == plan.agnostic_rows(phase, 2, 0).tolist()


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


def test_number_of_threads_does_not_change_a_batch(photo_shards):
    shards, _, plan = open_plan(photo_shards, color_jitter=(0.4, 0.4, 0.4), **PHOTOS)
    one, two = (next(Loader(shards, plan, threads=threads).batches("interpolative")) for threads in (1, 2))
    assert torch.equal(one.x_h, two.x_h)
    assert torch.equal(one.x_f, two.x_f)


def test_batches_continue_from_a_step_across_the_end_of_an_epoch(photo_shards):
    shards, _, plan = open_plan(photo_shards, batch_size=6, **PHOTOS)
    loader = Loader(shards, plan, max_steps=2)
    assert loader.steps == 2
    batches = islice(loader.batches("warmup", epoch=3, step=1), 3)
    expected = [plan.batch("warmup", *position).agnostic for position in [(3, 1), (4, 0), (4, 1)]]
    for batch, stream in zip(batches, expected, strict=True):
        assert batch.y.tolist() == stream.labels.tolist()
    names = [shards.name(row) for row in expected[1].rows.tolist()]
    assert loader.names("warmup", 4, 0) == names


def test_a_drawn_stream_has_the_images_of_training(photo_shards):
    shards, data, plan = open_plan(photo_shards, **PHOTOS)
    batch = next(Loader(shards, plan).batches("warmup"))
    drawn = draw_stream(shards, plan.batch("warmup", 0, 0).agnostic, data)
    assert torch.equal(drawn.x, batch.x)
    assert torch.equal(drawn.y, batch.y)


@pytest.mark.parametrize("settings", [PHOTOS | {"color_jitter": (0.4, 0.4, 0.4)}, SMALL], ids=["crop", "pad"])
def test_without_mixing_both_streams_are_those_of_the_plan(photo_shards, settings):
    shards, data, plan = open_plan(photo_shards, mixing="none", lambda_per="sample", **settings)
    batch = next(Loader(shards, plan).batches("interpolative", epoch=1, step=1))
    planned = plan.batch("interpolative", 1, 1)
    for stream, x, y in ((planned.agnostic, batch.x_h, batch.y_h), (planned.aware, batch.x_t, batch.y_t)):
        drawn = draw_stream(shards, stream, data)
        assert torch.equal(x, drawn.x)
        assert torch.equal(y, drawn.y)
    assert batch.lam.tolist() == planned.lam.tolist()
    _, _, plan = open_plan(photo_shards, lambda_per="sample", **settings)
    mixed = next(Loader(shards, plan).batches("interpolative", epoch=1, step=1))
    weight = batch.lam[:, None, None, None]
    assert torch.equal(mixed.x_h, batch.x_h)
    torch.testing.assert_close(mixed.x_f, weight * batch.x_h + (1 - weight) * batch.x_t, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("phase", "mixing"), [("warmup", "mixup"), ("interpolative", "none")])
def test_batches_have_the_generator_of_their_step(photo_shards, phase, mixing):
    shards, _, plan = open_plan(photo_shards, mixing=mixing, **SMALL)
    loader = Loader(shards, plan, max_steps=2)
    for number, batch in enumerate(islice(loader.batches(phase, epoch=3, step=1), 3)):
        expected = plan.method_rng(phase, *divmod(3 * 2 + 1 + number, 2))
        assert batch.rng.random(4).tolist() == expected.random(4).tolist()
