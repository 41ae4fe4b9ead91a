"""The evaluation loader: every image once, in each iteration, with one pipeline for all of them."""

import io
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import functional as F

from fasticcl.config import Data
from fasticcl.data.cache import evaluation_cache
from fasticcl.data.dali import graph
from fasticcl.data.evaluation_loader import EvaluationLoader, evaluation_batches
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import Shards
from tests.support.damaged_shards import write_noisy_shards
from tests.support.planned_images import PHOTOS, denormalise

IMAGES, BATCH = 30, 8  # the last of four batches has six images


@pytest.fixture
def folder(tmp_path):
    return write_noisy_shards(tmp_path)


@pytest.fixture
def built(monkeypatch):
    """The pipelines that were built."""
    pipelines, build = [], graph.build
    monkeypatch.setattr(graph, "build", lambda *args: pipelines.append(build(*args)) or pipelines[-1])
    return pipelines


def open_loader(folder, location="off", **options):
    shards = Shards(folder, "train")
    data = Data(dataset="folder", dir=folder, image_size=32, eval_resize=36)
    cache = None if location == "off" else evaluation_cache(shards, location)
    return EvaluationLoader(shards, data, cache=cache, batch_size=BATCH, threads=2, **options)


def flip_byte_in_place(folder, row):
    """Change an image without truncating the shard, because the pipeline has mapped it."""
    entry = np.load(folder / "train/index.npy")[row]
    with open(folder / f"train/shard-{entry['shard']:06d}.tar", "r+b") as file:
        file.seek(int(entry["offset"]) + 40)
        [byte] = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte ^ 1]))


def same(one, other):
    """Return True if two lists of batches are bit-identical."""
    return all(torch.equal(a.x, b.x) and torch.equal(a.y, b.y) for a, b in zip(one, other, strict=True))


def test_evaluation_yields_each_image_once_resized_and_centre_cropped(photo_shards):
    shards, data = Shards(photo_shards, "val"), Data(**PHOTOS)
    batches = list(evaluation_batches(shards, data, batch_size=2))
    assert [len(batch.y) for batch in batches] == [2, 2, 1]
    assert torch.cat([batch.y for batch in batches]).tolist() == shards.index["label"].tolist()
    for row, image in enumerate(torch.cat([batch.x for batch in batches])):
        original = Image.open(io.BytesIO(shards.read(np.array([row]))[0].tobytes())).convert("RGB")
        expected = F.to_tensor(F.center_crop(F.resize(original, 112), 96))
        assert (denormalise(image, data) - expected).abs().mean() < 1 / 255


def test_evaluated_rows_are_divided_among_the_ranks_batch_by_batch(photo_shards):
    shards, rows = Shards(photo_shards, "train"), np.array([20, 0, 13, 5, 7, 12, 1])
    options = {"rows": rows, "batch_size": 2, "threads": 1}
    whole = list(evaluation_batches(shards, Data(**PHOTOS), **options))
    assert torch.cat([batch.y for batch in whole]).tolist() == shards.index["label"][rows].tolist()
    for rank in range(3):
        part = list(evaluation_batches(shards, Data(**PHOTOS), **options, rank=rank, world_size=3))
        assert len(part) == len(whole[rank::3])
        assert all(torch.equal(one.x, other.x) for one, other in zip(part, whole[rank::3], strict=True))


@pytest.mark.parametrize("location", ["off", "host", "device"])
@pytest.mark.parametrize("prefetch", [1, 3, 6])
def test_every_iteration_yields_the_same_images_from_one_pipeline(folder, built, location, prefetch):
    expected = [*open_loader(folder, location)]
    assert torch.cat([batch.y for batch in expected]).tolist() == np.repeat(range(4), [12, 9, 6, 3]).tolist()
    loader = open_loader(folder, location, repeat=True, prefetch=prefetch)
    iterations = [[*loader] for _ in range(3)]  # kept, so no later batch may overwrite an earlier one
    assert all(same(batches, expected) for batches in iterations)
    assert len(built) == 2


@pytest.mark.parametrize(("repeat", "read"), [(False, IMAGES), (True, IMAGES + 2 * BATCH)])
def test_only_repeated_iterations_read_ahead(folder, monkeypatch, repeat, read):
    rows, graph_input = [], Shards.graph_input
    monkeypatch.setattr(
        Shards, "graph_input", lambda self, batch: rows.extend(batch.tolist()) or graph_input(self, batch)
    )
    loader = open_loader(folder, repeat=repeat, prefetch=3)
    assert len([*loader]) == len(loader) == 4
    assert rows == [row % IMAGES for row in range(read)]


@pytest.mark.parametrize("end", ["break", "exception"])
def test_an_abandoned_iteration_does_not_shift_the_next(folder, built, end):
    loader = open_loader(folder, repeat=True)
    expected = [*loader]
    if end == "break":
        assert same([next(iter(loader))], expected[:1])
    else:
        with pytest.raises(ZeroDivisionError):
            [1 / 0 for _ in loader]
    assert same([*loader], expected)
    assert len(built) == 2


def test_two_iterations_at_once_do_not_share_a_pipeline(folder):
    loader = open_loader(folder, repeat=True)
    assert all(same([one], [other]) for one, other in zip(loader, loader, strict=True))


def test_limited_batches_are_the_first_ones_in_every_iteration(folder):
    loader, expected = open_loader(folder, repeat=True, max_batches=2), [*islice(open_loader(folder), 2)]
    assert all(same([*loader], expected) for _ in range(3))


def test_repeated_iterations_of_ranks_divide_the_images(folder, built):
    whole = [*open_loader(folder)]
    for rank in range(3):
        loader = open_loader(folder, repeat=True, rank=rank, world_size=3)
        assert all(same([*loader], whole[rank::3]) for _ in range(2))
    built.clear()
    assert [*open_loader(folder, repeat=True, rank=4, world_size=5)] == []
    assert built == []


def test_image_damaged_after_it_was_read_stops_the_next_iteration_but_not_this_one(folder):
    loader = open_loader(folder, repeat=True, prefetch=3)
    expected, found = [*loader], []
    for number, batch in enumerate(loader):
        found.append(batch)
        if number == 1:
            flip_byte_in_place(folder, 9)  # in the second batch, which has been decoded
    assert same(found, expected)
    following = iter(loader)
    assert same([next(following)], expected[:1])
    with pytest.raises(TrainingFailed, match=r"^train/shard-000001\.tar.*damaged since the conversion"):
        next(following)
