"""Tests of the statistics of an epoch."""

import torch

from fasticcl.engine.epoch_stats import EpochStats
from fasticcl.system.ranks import Ranks

CPU = torch.device("cpu")


def losses(value):
    return {"loss": torch.tensor(value)}


def test_record_has_the_mean_over_the_steps():
    stats = EpochStats(Ranks(), CPU)
    stats.add(losses(1.0), images=4, waited=0.0)
    stats.add(losses(3.0), images=4, waited=0.0)
    assert stats.record()["train/loss"] == 2.0


def test_statistics_continue_from_a_checkpoint():
    before = EpochStats(Ranks(), CPU)
    before.add(losses(1.0), images=4, waited=0.0)
    after = EpochStats(Ranks(), CPU, before.partial())
    after.add(losses(3.0), images=4, waited=0.0)
    assert after.record()["train/loss"] == 2.0
    assert after.steps == 2


def test_another_number_of_ranks_starts_with_the_mean_of_their_sums():
    stats = EpochStats(Ranks(), CPU, {"sums": {"loss": torch.tensor([1.0, 3.0])}, "steps": 1})
    assert stats.record()["train/loss"] == 2.0


def test_bad_step_is_the_first_with_a_loss_that_is_not_finite():
    stats = EpochStats(Ranks(), CPU)
    for value in (1.0, float("nan"), float("inf")):
        stats.add(losses(value), images=4, waited=0.0)
    assert stats.bad_step() == 1
