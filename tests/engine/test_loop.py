"""Tests of ``engine.save_every`` and the clock that follows it."""

import pytest

import fasticcl
from fasticcl.engine.loop import SaveClock
from fasticcl.errors import UserError


@pytest.mark.parametrize("every", ["500", "15m", "1"])
def test_save_every_accepts_steps_or_minutes(every):
    assert fasticcl.configure("demo", save_every=every).engine.save_every == every


@pytest.mark.parametrize("options", [{"save_every": 500}, {"set": {"engine.save_every": 500}}], ids=str)
def test_save_every_accepts_an_integer(options):
    assert fasticcl.configure("demo", **options).engine.save_every == "500"
    assert fasticcl.configure("demo", set=["engine.save_every=500"]).engine.save_every == "500"


@pytest.mark.parametrize("every", ["0", "0m", "1h", "-5", "1.5m", "", 0, 1.5, True])
def test_save_every_rejects_other_values(every):
    with pytest.raises(UserError) as refused:
        fasticcl.configure("demo", set={"engine.save_every": every})
    assert str(refused.value) == (
        f"engine.save_every must be a number of steps (500) or minutes (15m), got {every!r}."
    )


def test_minutes_are_counted_from_the_last_checkpoint(monkeypatch):
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    clock = SaveClock("15m")
    due = []
    for now in (60.0, 899.0, 900.0):  # noqa: B007  the clock reads it
        due.append(clock.due())
    assert due == [False, False, True]
    now = 901.0
    clock.restart()
    now = 1800.0
    assert not clock.due()
    now = 1801.0
    assert clock.due()
