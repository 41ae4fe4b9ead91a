"""The training loader and the evaluation batches of a run."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fasticcl.data.dali import graph
from fasticcl.engine.dataset import open_dataset
from fasticcl.engine.loaders import (
    build_loader,
    evaluation_batch_size,
    evaluation_split_batches,
    holdout_batches,
)
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import MODES, Machine
from tests.support.small_runs import TINY_COUNTS

IMAGES = sum(TINY_COUNTS)


@pytest.fixture
def opened(tiny_shards):
    """Return the configuration and the opened splits of a run on the tiny shards."""

    def open_run(batch_size=20, *assignments):
        options = {"data": {"dir": tiny_shards}, "optim": {"batch_size": batch_size}}
        config = resolve("demo", options=options, assignments=assignments)
        return config, open_dataset(config)

    return open_run


def machine(rank=0, world_size=1, mode="off"):
    ranks = SimpleNamespace(rank=rank, world_size=world_size)
    return Machine(torch.device("cpu"), bfloat16=False, mode=mode, ranks=ranks)


def labels(batches):
    return [batch.y.tolist() for batch in batches]


@pytest.mark.parametrize(("holdout", "images"), [(0, IMAGES), (1, IMAGES - 8)])
def test_batch_larger_than_the_training_images_is_rejected(opened, holdout, images):
    message = f"A batch of {images + 1} is larger than the {images} training images"
    if holdout:
        message += (
            f" outside the holdout set. Train with --batch-size {images} or less, or use a smaller holdout."
        )
    else:
        message += f". Use --batch-size {images} or less."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build_loader(*opened(images + 1, f"data.holdout={holdout}"), machine())
    assert build_loader(*opened(images, f"data.holdout={holdout}"), machine()).steps == 1


@pytest.mark.parametrize(("batch_size", "possible"), [(20, 18), (2, 3)])
def test_batch_that_cannot_be_divided_among_the_ranks_is_rejected(opened, batch_size, possible):
    message = f"A global batch of {batch_size} cannot be divided among 3 ranks. Use --batch-size {possible}."
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        build_loader(*opened(batch_size), machine(0, 3))
    assert build_loader(*opened(possible), machine(0, 3)).steps == IMAGES // possible


def test_ranks_load_the_slices_of_the_global_batch(opened):
    config, dataset = opened(20)
    whole = next(build_loader(config, dataset, machine()).batches("warmup"))
    slices = [next(build_loader(config, dataset, machine(rank, 2)).batches("warmup")) for rank in range(2)]
    assert torch.equal(torch.cat([batch.x for batch in slices]), whole.x)
    assert torch.equal(torch.cat([batch.y for batch in slices]), whole.y)


def test_evaluated_split_is_divided_among_ranks_in_batches_of_their_share(opened):
    config, dataset = opened(20)
    expected = dataset.evaluated.index["label"].tolist()
    assert labels(evaluation_split_batches(config, dataset, machine())) == [expected[:20], expected[20:]]
    for rank in range(2):
        batches = labels(evaluation_split_batches(config, dataset, machine(rank, 2)))
        assert batches == [expected[start : start + 10] for start in range(10 * rank, 30, 20)]


def test_holdout_batches_have_the_holdout_images(opened):
    config, dataset = opened(5, "data.holdout=1")
    found = labels(holdout_batches(config, dataset, machine()))
    assert found == [[0, 1, 2, 3, 4], [5, 6, 7]]  # classes with one image keep it
    assert np.bincount(dataset.train.index["label"][dataset.holdout_rows]).tolist() == [1] * 8


def test_fast_dev_run_takes_three_steps_and_three_evaluation_batches(opened):
    config, dataset = opened(5, "engine.fast_dev_run=true")
    assert build_loader(config, dataset, machine()).steps == 3
    assert [len(batch) for batch in labels(evaluation_split_batches(config, dataset, machine()))] == [5] * 3


@pytest.mark.parametrize("mode", MODES)
def test_outputs_of_dali_are_copied_only_beside_cuda_graphs(opened, monkeypatch, mode):
    built = []
    monkeypatch.setattr(graph, "build", lambda *arguments: built.append(arguments[-1]))
    build_loader(*opened(), machine(mode=mode))._pipeline("warmup", 0)
    evaluation_split_batches(*opened(), machine(mode=mode))._pipeline()
    assert [options.copy_outputs for options in built] == [mode in ("cuda-graphs", "captured")] * 2


@pytest.mark.parametrize(
    ("gpu", "world_size", "settings", "size"),
    [
        (None, 1, [], 256),
        (None, 3, [], 86),
        (None, 1, ["engine.eval_batch_size=7"], 7),
        (0, 1, [], 445),  # 256 MiB
        (0, 1, ["optim.batch_size=64"], 256),
        (0, 4, [], 256),
        (0, 1, ["optim.batch_size=512"], 512),
        (0, 1, ["optim.batch_size=512", "data.image_size=32", "data.eval_resize=0"], 2048),
        (0, 1, ["engine.eval_batch_size=7"], 7),
    ],
)
def test_evaluation_batches_are_larger_than_those_of_training_on_a_gpu(
    monkeypatch, gpu, world_size, settings, size
):
    monkeypatch.setattr(Machine, "gpu", gpu)
    config = resolve("imagenet-lt", assignments=settings)
    assert evaluation_batch_size(config, machine(0, world_size)) == size


def test_evaluation_batch_size_is_a_setting_of_the_run(opened):
    config, dataset = opened(20, "engine.eval_batch_size=25")
    assert [len(batch) for batch in labels(evaluation_split_batches(config, dataset, machine()))] == [25, 5]
    assert "eval_batch_size = 25" in config.to_toml()
    assert "eval_batch_size" not in opened(20)[0].to_toml()  # as in runs that are older than the setting
