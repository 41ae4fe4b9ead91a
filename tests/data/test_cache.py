"""Batches from the cache of decoded images, compared with those from the files."""

from contextlib import nullcontext
from itertools import islice

import numpy as np
import pytest
import torch

from fasticcl.config import Data
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data import cache
from fasticcl.data.batch import tensors_of
from fasticcl.data.cache import evaluation_cache
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES, Plan
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.shards.reader import Shards
from tests.support.damaged_shards import for_each_damage
from tests.support.images import encode, noise

RANDOM_RESIZED = {"image_size": 16, "crop_scale": (0.3, 1.0), "eval_resize": 18}
JITTERED = {**RANDOM_RESIZED, "color_jitter": (0.4, 0.4, 0.4)}
PADDED = {"image_size": 16, "crop": "pad", "crop_padding": 2, "eval_resize": 0}
GRAPHS = {"random resized": RANDOM_RESIZED, "jittered": JITTERED, "padded": PADDED}


@pytest.fixture
def folder(tmp_path):
    """Noisy JPEGs and PNGs of many sizes, 40 for training and 9 for evaluation."""
    rng = np.random.default_rng(0)
    items = []
    for number in range(49):
        height, width = (int(side) for side in rng.integers(20, 60, 2))
        encoded = encode(noise(rng, height, width), *(["PNG"] if number % 5 == 0 else []))
        items.append(Item(encoded, number % 4, f"{number}.jpg"))
    convert(Source("folder", list("abcd"), {"train": items[:40], "val": items[40:]}), tmp_path, shard_size=16)
    return tmp_path


def open_loader(folder, settings, location, warn=print, **options):
    shards = Shards(folder, "train")
    data = Data(dataset="folder", dir=folder, **settings)
    plan = Plan(shards.index, shards.counts, data, batch_size=10, seed=5, **options)
    return Loader(shards, plan, cache_location=location, threads=2, warn=warn)


def same(one, other):
    """Return True if two lists of batches are bit-identical."""
    pairs = [(tensors_of(x), tensors_of(y)) for x, y in zip(one, other, strict=True)]
    return all(torch.equal(x[name], y[name]) for x, y in pairs for name in x | y)


@pytest.mark.parametrize("location", ["host", "device"])
@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("settings", GRAPHS.values(), ids=GRAPHS)
def test_cached_batches_are_bit_identical_to_those_from_the_files(folder, settings, phase, location):
    loaders = [open_loader(folder, settings, used, resample_epoch=1) for used in ("off", location)]
    batches = [[*islice(loader.batches(phase), 6)] for loader in loaders]  # re-sampled from the fifth on
    assert same(*batches)


@pytest.mark.parametrize("phase", PHASES)
def test_cached_images_of_equal_size_give_the_same_batches(tmp_path, phase):
    rng = np.random.default_rng(1)
    items = [Item(encode(noise(rng, 24, 20)), number % 3, f"{number}.jpg") for number in range(30)]
    convert(Source("folder", list("abc"), {"train": items, "val": items[:3]}), tmp_path)
    loaders = [open_loader(tmp_path, PADDED, location) for location in ("off", "device")]
    assert same(*([*islice(loader.batches(phase), 7)] for loader in loaders))
    gathered = loaders[1]._cache.graph_input(np.array([4, 4, 29]))
    assert gathered.shape == (3, 24, 20, 3)


@pytest.mark.parametrize("location", ["host", "device"])
@pytest.mark.parametrize("settings", GRAPHS.values(), ids=GRAPHS)
def test_cached_evaluation_batches_are_bit_identical_to_those_from_the_files(folder, settings, location):
    shards, data = Shards(folder, "val"), Data(dataset="folder", dir=folder, **settings)
    batches = [
        [*evaluation_batches(shards, data, cache=decoded, batch_size=4)]
        for decoded in (None, evaluation_cache(shards, location))
    ]
    assert [len(batch.y) for batch in batches[0]] == [4, 4, 1]
    assert same(*batches)


def test_rows_are_copied_to_a_gpu_from_pinned_memory_without_waiting(tmp_path, monkeypatch):
    squares = [encode(noise(np.random.default_rng(seed), 16, 16), "PNG") for seed in range(5)]
    items = [Item(content, number % 2, f"{number}.png") for number, content in enumerate(squares)]
    convert(Source("folder", ["a", "b"], {"train": items}), tmp_path)
    images = cache.Cache(Shards(tmp_path, "train"), np.arange(5), 1, print, location="device")
    expected = images.graph_input(np.array([2, 0]))
    pinned, copies = [], []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, _, **options: copies.append(options) or tensor)
    monkeypatch.setattr(torch.cuda, "stream", lambda _: nullcontext())
    images.cuda_stream = "stream"
    assert torch.equal(images.graph_input(np.array([2, 0])), expected)
    assert [tensor.tolist() for tensor in pinned] == [[2, 0]]
    assert copies == [{"non_blocking": True}]


@pytest.mark.parametrize("location", ["host", "device"])
def test_files_are_read_once(folder, monkeypatch, location):
    loader = open_loader(folder, RANDOM_RESIZED, location)
    next(loader.batches("warmup"))
    monkeypatch.setattr(Shards, "read", lambda *_: pytest.fail("an image was read again"))
    for phase in PHASES:
        assert len([*islice(loader.batches(phase), 8)]) == 8


@pytest.mark.parametrize("location", ["host", "device"])
@for_each_damage
def test_unreadable_images_are_all_reported_and_replaced_as_without_a_cache(folder, damage, location):
    damage(folder, 3, 17, 18)
    warnings = []
    loaders = [
        open_loader(folder, RANDOM_RESIZED, "off"),
        open_loader(folder, RANDOM_RESIZED, location, warnings.append),
    ]
    batches = [[*islice(loader.batches("interpolative"), 12)] for loader in loaders]
    assert same(*batches)
    assert loaders[1].bad_samples.rows == [3, 17, 18]
    assert len(warnings) == 3


@pytest.mark.parametrize("location", ["host", "device"])
@for_each_damage
def test_holdout_images_are_not_read(folder, damage, location):
    damage(folder, 3, 17)
    holdout_rows = np.array([3, 4, 30])
    loaders = [
        open_loader(folder, RANDOM_RESIZED, used, holdout_rows=holdout_rows) for used in ("off", location)
    ]
    for phase in PHASES:
        assert same(*([*islice(loader.batches(phase), 12)] for loader in loaders))
    assert [loader.bad_samples.rows for loader in loaders] == [[17], [17]]


@for_each_damage
def test_unreadable_evaluation_image_is_reported_by_name(folder, damage):
    shards = Shards(folder, "val")
    damage(folder, 5, split="val")
    with pytest.raises(TrainingFailed, match=r"val/shard-000000.tar:\d+ .*\. Convert .* again"):
        evaluation_cache(shards)


@pytest.mark.parametrize(
    ("setting", "side", "gpu", "free", "expected"),
    [
        ("auto", 32, None, {"host": 10**9}, "host"),
        ("auto", 32, 0, {"device": 10**9, "host": 10**9}, "device"),
        (
            "auto",
            32,
            0,
            {"device": 20_000, "host": 20_000},
            "host",
        ),  # exceeds half of the device, but not 80 % of the host
        ("auto", 32, 0, {"device": 10_000, "host": 10_000}, "off"),
        ("auto", 65, None, {"host": 10**9}, "off"),
        ("auto", 32, None, {"host": 10_000}, "off"),
        ("host", 65, 0, {"host": 10**9}, "host"),
        ("device", 65, 0, {"device": 10**9}, "device"),
        ("off", 32, 0, {"device": 10**9}, "off"),
    ],
)
def test_auto_caches_only_small_images(tmp_path, monkeypatch, setting, side, gpu, free, expected):
    image = encode(noise(np.random.default_rng(0), side, 30))
    items = [Item(image, label, f"{i}.jpg") for i, label in enumerate((0, 0, 1, 1))]
    convert(Source("folder", ["a", "b"], {"train": items, "val": items[:2]}), tmp_path)
    shards = Shards(tmp_path, "train")
    assert cache.decoded_bytes(shards) == 4 * side * 30 * 3
    monkeypatch.setattr(cache, "free_memory", lambda location, _: free[location])
    assert cache.choose_cache_location(setting, [shards], gpu) == expected


@pytest.mark.parametrize(("location", "share"), [("host", 0.8), ("device", 0.5)])
def test_cache_that_does_not_fit_into_memory_is_rejected_with_its_size(folder, monkeypatch, location, share):
    shards = Shards(folder, "train")
    enough = int(cache.decoded_bytes(shards) / share)
    monkeypatch.setattr(cache, "free_memory", lambda *_: enough - 100)
    with pytest.raises(
        UserError, match=rf"--cache {location}: the decoded images take .* GiB, more than {share:.0%}"
    ):
        cache.choose_cache_location(location, [shards], 0)
    assert cache.choose_cache_location(location, [shards], 0, required=False) == "off"
    monkeypatch.setattr(cache, "free_memory", lambda *_: enough + 100)
    assert cache.choose_cache_location(location, [shards], 0) == location


def test_free_memory_is_the_share_of_each_rank_in_the_control_group(monkeypatch):
    monkeypatch.setattr(cache, "memory_left", lambda: None)
    assert cache.free_memory("host", None) > 2**28
    monkeypatch.setattr(cache, "memory_left", lambda: 4_000_000)
    assert cache.free_memory("host", 0) == 4_000_000
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert cache.free_memory("device", None) == 1_000_000  # the memory of a CPU is that of the host
    monkeypatch.setattr(cache, "memory_left", lambda: 2**60)
    assert cache.free_memory("host", None) > 2**26
