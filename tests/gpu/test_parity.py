"""Batches decoded on a GPU, compared with batches decoded on the CPU from the same plan."""

import pytest
import torch

from fasticcl.config import Data
from fasticcl.data.plan import PHASES, Plan

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


# Mean difference in levels from 0 to 255. A GPU enlarges chroma without interpolation (0.3 to 1.5 levels,
# see `decoder_options`), and resizes with rounding of its own. Jitter amplifies both up to 1.4 · 1.4 times. A
# shift by one pixel changes about 8 levels.
@pytest.mark.parametrize("location", ["off", "host", "device"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(("jitter", "levels"), [((0.0, 0.0, 0.0), 2), ((0.4, 0.4, 0.4), 4)])
def test_graph_gives_the_same_images_on_cpu_and_gpu(photo_shards, phase, jitter, levels, location):
    from fasticcl.data.loader import Loader  # needs isal, and without it the fixture skips the test
    from fasticcl.shards.reader import Shards

    shards = Shards(photo_shards, "train")
    # Decoders and resizing round differently. The saturation truncates on a CPU and rounds on a GPU.
    data = Data(dataset="folder", dir=photo_shards, color_jitter=jitter)
    plan = Plan(shards.index, shards.counts, data, batch_size=8, seed=0)
    loaders = Loader(shards, plan), Loader(shards, plan, gpu=0, cache_location=location)
    one, two = (vars(next(loader.batches(phase))) for loader in loaders)
    std = 255 * torch.tensor(data.std)[:, None, None]
    for name, value in one.items():
        other = two[name].cpu()
        if value.ndim == 4:
            assert ((value - other) * std).abs().mean() < levels, name
        else:
            assert torch.equal(value, other), name


@pytest.mark.parametrize(("image_size", "crop"), [(32, "pad"), (224, "random_resized")])
def test_cutmix_on_a_gpu_pastes_the_boxes_of_the_plan(photo_shards, image_size, crop):
    from fasticcl.data.loader import Loader
    from fasticcl.shards.reader import Shards

    shards, batches, boxes = Shards(photo_shards, "train"), [], None
    for mixing in ("none", "cutmix"):
        data = Data(
            dataset="folder",
            dir=photo_shards,
            image_size=image_size,
            crop=crop,
            mixing=mixing,
            mixing_probability=0.7,
            lambda_per="sample",
        )
        plan = Plan(shards.index, shards.counts, data, batch_size=16, seed=0)
        batches.append(next(Loader(shards, plan, gpu=0).batches("interpolative")))
        boxes = plan.batch("interpolative", 0, 0).boxes
    pair, mixed = batches
    assert torch.equal(mixed.x_h, pair.x_h)
    expected = pair.x_h.clone()
    for image, other, (top, left, height, width) in zip(expected, pair.x_t, boxes.tolist(), strict=True):
        window = slice(top, top + height), slice(left, left + width)
        image[:, *window] = other[:, *window]
    assert 0 < sum(height == 0 for *_, height, _ in boxes.tolist()) < 16  # some boxes are empty
    assert torch.equal(mixed.x_f, expected)


@pytest.mark.parametrize("phase", PHASES)
def test_images_cached_on_a_busy_gpu_equal_images_cached_on_the_host(digit_shards, phase):
    from fasticcl.data.loader import Loader
    from fasticcl.shards.reader import Shards

    shards = Shards(digit_shards, "train")
    data = Data(dataset="demo", dir=digit_shards, image_size=32, crop="pad")
    plan = Plan(shards.index, shards.counts, data, batch_size=64, seed=0)
    streams = [
        Loader(shards, plan, gpu=0, cache_location=location).batches(phase) for location in ("host", "device")
    ]
    busy = torch.ones(4096, 4096, device="cuda")
    for _ in range(50):  # the queued work reveals a buffer that is reused too early
        busy = busy @ busy / 4096
        one, two = (vars(next(stream)) for stream in streams)
        assert all(torch.equal(one[name], two[name]) for name in one)
