"""Tests of ``engine.save_every`` and the clock that follows it, and of the check of the weights."""

from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import fasticcl
from fasticcl.engine.loop import Loop, SaveClock
from fasticcl.errors import TrainingFailed, UserError


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


class Waits(TorchDispatchMode):
    """Count the operators for which the host waits for the device."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.overloadpacket is torch.ops.aten._local_scalar_dense
        return func(*args, **(kwargs or {}))


def check(network):
    """Check the weights as at the end of an epoch, and return the number of waits for the device."""
    with Waits() as waits:
        stage = SimpleNamespace(name="x", network=network, phase=lambda _: "warmup")
        Loop._check_weights(SimpleNamespace(_command="--resume"), stage)
    return waits.count


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_each_weight_that_is_not_finite_is_found_with_one_wait(value):
    network = torch.nn.Sequential(*[torch.nn.Conv2d(3, 3, 3) for _ in range(3)])
    with torch.no_grad():
        network[0].weight.fill_(3e38)  # finite, but neither its sum nor its norm is
    assert check(network) == 1
    for parameter in network.parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] = value
        with pytest.raises(TrainingFailed, match="The weights are not finite after the last step of the x"):
            check(network)
        with torch.no_grad():
            parameter.copy_(kept)
    assert check(network) == 1
