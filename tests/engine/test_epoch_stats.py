"""Tests of the statistics of an epoch."""

import torch

from fasticcl.engine.epoch_stats import EpochStats, EpochTimes
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


def test_times_of_an_epoch_are_shares_of_the_seconds_since_the_previous_record(monkeypatch):
    now = 10.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    times = EpochTimes()
    now = 16.0
    with times.measure("eval"):
        now = 18.0
    now = 20.0
    assert times.record() == {"time/epoch_sec": 10.0, "time/eval_pct": 20.0, "time/save_pct": 0.0}
    for _ in range(2):
        with times.measure("save"):
            now += 1.0
    now = 24.0
    assert times.record() == {"time/epoch_sec": 4.0, "time/eval_pct": 0.0, "time/save_pct": 50.0}
