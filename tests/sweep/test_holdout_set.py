"""Holdout of a sweep: which images it has, and unreadable ones."""

import shutil

import numpy as np
import pytest

import fasticcl
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.data.plan import Plan
from fasticcl.engine.dataset import Dataset
from fasticcl.errors import TrainingFailed, UserError
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from fasticcl.sweep import holdout_set
from tests.support.small_runs import TINY_COUNTS, ConsoleOutput, metrics, train_tiny

GAMMAS = {"rebalance.gamma": [0, 1]}
HOLDOUT_ROWS = draw_holdout_rows(np.array(TINY_COUNTS), 0.3, seed=0)


def test_the_holdout_of_the_run_is_evaluated_and_never_used_in_training(run_with_holdout, monkeypatch):
    drawn, batch = set(), Plan.batch
    evaluated, holdout_batches = [], holdout_set.holdout_batches

    def recorded_batch(self, *position):
        planned = batch(self, *position)
        drawn.update(planned.aware.rows.tolist())
        return planned

    def recorded_evaluation(config, dataset, machine):
        evaluated.append(dataset.holdout_rows)
        return holdout_batches(config, dataset, machine)

    monkeypatch.setattr(Plan, "batch", recorded_batch)
    monkeypatch.setattr(holdout_set, "holdout_batches", recorded_evaluation)
    sweep = fasticcl.sweep(run_with_holdout, over=GAMMAS)
    assert not sweep.holdout.seen
    assert (sweep.holdout.images, sweep.holdout.classes) == (18, 8)
    assert len(evaluated[0]) == 18
    assert drawn
    assert not drawn & set(evaluated[0].tolist())


def test_a_holdout_other_than_that_of_the_run_is_refused(run_with_holdout):
    with pytest.raises(UserError, match="already has a holdout"):
        fasticcl.sweep(run_with_holdout, over=GAMMAS, holdout=0.1)


def corrupt(shards, row):
    """Change a byte of a training image and return the name of the image."""
    index = np.load(shards / "train/index.npy")[row]
    path = shards / "train" / f"shard-{int(index['shard']):06d}.tar"
    content = bytearray(path.read_bytes())
    content[int(index["offset"]) + 40] ^= 1
    path.write_bytes(content)
    return Shards(shards, "train").name(row)


@pytest.fixture
def corrupt_shards(tiny_shards, tmp_path):
    """Shards with one unreadable image that is in a holdout of 30 %, and the name of the image."""
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    return shards, corrupt(shards, HOLDOUT_ROWS[0])


@pytest.mark.parametrize("cache", ["host", "off"])
def test_an_unreadable_holdout_image_is_named_and_left_out(corrupt_shards, tmp_path, cache):
    """Training never draws the image and therefore neither counts nor replaces it."""
    shards, name = corrupt_shards
    training, sweeping = ConsoleOutput(), ConsoleOutput()
    run = train_tiny(shards, tmp_path, {"data.holdout": 0.3}, cache=cache, console=training.console).run
    assert training.warnings() == []
    assert {record["data/bad_samples"] for record in metrics(run) if "val/top1" in record} == {0}
    sweep = fasticcl.sweep(run, over=GAMMAS, console=sweeping.console)
    assert sweep.holdout.images == len(HOLDOUT_ROWS) - 1
    assert sweeping.warnings() == [f"warning  {name} cannot be read and is left out of the holdout"]


@pytest.mark.parametrize("cache", ["host", "off"])
def test_an_image_found_unreadable_in_training_is_left_out_silently(corrupt_shards, tmp_path, cache):
    shards, name = corrupt_shards
    training, sweeping = ConsoleOutput(), ConsoleOutput()
    run = train_tiny(shards, tmp_path, cache=cache, console=training.console).run
    assert [line.split(": ")[0] for line in training.warnings()] == [f"warning  {name}"]
    sweep = fasticcl.sweep(run, over=GAMMAS, holdout=0.3, console=sweeping.console)
    assert sweep.holdout.images == len(HOLDOUT_ROWS) - 1
    assert sweeping.warnings() == []


def test_failure_of_the_machine_is_not_searched_for_unreadable_images(monkeypatch):
    def out_of_memory(*_):
        raise TrainingFailed("Out of memory in DALI")
        yield

    monkeypatch.setattr(holdout_set, "holdout_batches", out_of_memory)
    monkeypatch.setattr(holdout_set, "unreadable_rows", None)  # must not be called
    dataset = Dataset(None, None, "off", None, holdout_rows=np.arange(3))
    with pytest.raises(TrainingFailed, match="Out of memory in DALI"):
        holdout_set.HoldoutSet.readable(resolve("demo"), dataset, None, [], warn=print)
