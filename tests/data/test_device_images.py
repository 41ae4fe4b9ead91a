"""Images prepared by torch in device memory, compared with those of the DALI graph."""

import itertools
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from fasticcl.config import Data
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data import device_images
from fasticcl.data.device_images import DeviceImages, obstacle, pack
from fasticcl.data.loader import draw_stream
from fasticcl.data.plan import BatchPlan, Plan, StreamPlan
from fasticcl.shards.reader import Shards
from tests.support.damaged_shards import flip_bit
from tests.support.images import encode, noise

SMALL = {"dataset": "folder", "image_size": 16, "crop": "pad", "crop_padding": 3, "eval_resize": 0}


@pytest.fixture(scope="module", params=[[(16, 16)], [(20, 12), (8, 8), (33, 16)]], ids=["equal", "any"])
def folder(request, tmp_path_factory):
    """Shards of 30 images that have the final size, or of 30 images of other sizes, some of them JPEGs."""
    rng, sizes = np.random.default_rng(0), itertools.cycle(request.param)
    items = []
    for number in range(33):
        encoded = encode(noise(rng, *next(sizes)), *([] if number % 5 == 0 else ["PNG"]))
        items.append(Item(encoded, number % 3, f"{number}.png"))
    folder = tmp_path_factory.mktemp("small")
    convert(Source("folder", list("abc"), {"train": items[:30], "val": items[30:]}), folder)
    return folder


def load(shards, data):
    rows = np.arange(len(shards))
    return DeviceImages.load(shards, rows, data, threads=2, gpu=None, report_bad=pytest.fail)


def test_every_window_and_flip_is_bit_identical_to_the_graph(folder):
    shards, data = Shards(folder, "train"), Data(dir=folder, **SMALL)
    plan = Plan(shards.index, shards.counts, data, batch_size=len(shards), seed=0)
    offsets = range(-data.crop_padding, data.crop_padding + 1)
    windows = np.array([*itertools.product(offsets, offsets, (0, 1))], dtype=np.int32)
    drawn = plan.batch("warmup", 0, 0).agnostic[np.arange(len(windows)) % len(shards)]
    stream = replace(drawn, cuts=windows[:, :2], flips=windows[:, 2])
    expected = draw_stream(shards, stream, data)
    actual = load(shards, data).batch(pack(BatchPlan(stream, None, None)).values)
    assert torch.equal(actual.x, expected.x)
    assert torch.equal(actual.y, expected.y)
    assert actual.x.is_contiguous(memory_format=torch.channels_last)


def test_only_a_chunk_of_decoded_images_is_in_memory(folder, tmp_path, monkeypatch):
    data, decoded, decode = Data(dir=folder, **SMALL), [], device_images.decode_rows

    def noted(shards, rows, *others):
        decoded.append(len(rows))
        return decode(shards, rows, *others)

    expected = load(Shards(folder, "train"), data)
    damaged, bad = shutil.copytree(folder, tmp_path / "shards"), []
    flip_bit(damaged, 4)
    monkeypatch.setattr(device_images, "decode_rows", noted)
    shards, rows = Shards(damaged, "train"), np.array([0, 1, 2, 4])
    monkeypatch.setattr(device_images, "_CHUNK", 3)  # row 4 is alone in its chunk
    images = DeviceImages.load(
        shards, rows, data, threads=2, gpu=None, report_bad=lambda bad_rows, _: bad.extend(bad_rows)
    )
    pixels, others = (each._pixels.view(30, -1) for each in (images, expected))
    assert decoded == [3, 1]
    assert bad == [4]
    assert torch.equal(pixels[:3], others[:3])
    assert not pixels[3:].any()


def test_packed_values_are_the_choices_of_both_streams_and_lambda():
    ones = np.ones(2, dtype=np.int64)
    streams = [
        StreamPlan(
            rows=ones * k,
            labels=ones,
            windows=np.zeros((2, 4), np.int32),
            sizes=np.zeros((2, 2), np.float32),
            cuts=np.array([[k + 1, k + 2]] * 2, np.int32),
            flips=np.array([0, 1], np.int32),
            colors=np.ones((2, 3), np.float32),
        )
        for k in (10, 20)
    ]
    packed = pack(BatchPlan(*streams, np.array([0.25, 0.5], np.float32)))
    assert packed.images == 4
    expected = [[10, 10], [11, 11], [12, 12], [0, 1], [20, 20], [21, 21], [22, 22], [0, 1]]
    assert packed.values[:8].tolist() == expected
    assert packed.values[8].view(torch.float32).tolist() == [0.25, 0.5]
    assert pack(BatchPlan(None, streams[1], None)).images == 2


def test_boxes_of_the_largest_images_are_packed_without_loss():
    rng = np.random.default_rng(0)
    data = Data(dir="unused", **SMALL | {"image_size": 64, "mixing": "cutmix"})
    images = DeviceImages(
        torch.zeros(1, 64, 64, 3, dtype=torch.uint8), np.zeros(1), data, torch.device("cpu")
    )
    boxes = np.array([[0, 0, 64, 64], [64, 64, 0, 0], [63, 1, 1, 63], *rng.integers(0, 33, (20, 4))])
    stream = StreamPlan(*np.zeros((7, len(boxes)), np.int32))
    stream = replace(stream, cuts=np.zeros((len(boxes), 2), np.int32))
    lam = np.ones(len(boxes), np.float32)
    packed = pack(BatchPlan(stream, stream, lam, boxes.astype(np.int32)))
    assert packed.images == 2 * len(boxes)
    inside = images._inside(packed.values[-1])
    for mask, (top, left, height, width) in zip(inside, boxes.tolist(), strict=True):
        expected = torch.zeros(64, 64, dtype=torch.bool)
        expected[top : top + height, left : left + width] = True
        assert torch.equal(mask[..., 0], expected)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({}, None),
        ({"crop": "random_resized"}, "data.crop is random_resized, not pad"),
        ({"color_jitter": (0.0, 0.1, 0.0)}, "data.color_jitter is not 0"),
        ({"image_size": 65}, "data.image_size is 65, more than 64"),
        ({"crop_padding": 10_000}, "the images need 34,387 MiB of device memory"),
    ],
    ids=str,
)
def test_reasons_against_images_in_device_memory(folder, monkeypatch, settings, reason):
    monkeypatch.setattr("fasticcl.data.cache.free_memory", lambda *_: 2**34)
    data = Data(dir=folder, **SMALL | settings)
    assert obstacle(data, Shards(folder, "train"), gpu=None) == reason
