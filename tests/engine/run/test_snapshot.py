"""Tests of copies of nested tensors."""

import copy
from collections import OrderedDict

import torch

from fasticcl.engine.run import snapshot
from fasticcl.engine.run.snapshot import Snapshot
from tests.support.small_runs import equal


def nested():
    weights = OrderedDict(weight=torch.arange(6.0).reshape(2, 3), bias=torch.ones(2))
    return {"weights": weights, "groups": [{"lr": 0.1, "betas": (0.9, torch.tensor(0.5))}], "empty": None}


def test_copy_is_equal_and_shares_nothing_with_the_original():
    value = nested()
    copied = Snapshot(value).value()
    assert equal(copied, nested())
    for tensor in (*value["weights"].values(), value["groups"][0]["betas"][1]):
        tensor.fill_(7)
    value["groups"][0]["lr"] = 7
    value["groups"].append("new")
    value["weights"]["new"] = 7
    assert equal(copied, nested())


def test_copy_of_a_state_dict_keeps_its_metadata():
    state = torch.nn.BatchNorm2d(3).state_dict()
    copied = Snapshot(state).value()
    assert type(copied) is OrderedDict
    assert copied._metadata == state._metadata
    assert copied._metadata[""]["version"] == 2


def test_tensors_that_share_memory_share_it_in_the_copy():
    student = torch.nn.Linear(2, 2)
    first, second = Snapshot((student.state_dict(), student.state_dict())).value()
    other = Snapshot((student.state_dict(), copy.deepcopy(student).state_dict())).value()[1]
    assert first["weight"].data_ptr() == second["weight"].data_ptr()
    assert first["weight"].data_ptr() not in (student.weight.data_ptr(), other["weight"].data_ptr())


def test_copy_keeps_channels_last_strides():
    weight = torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)
    assert Snapshot(weight).value().stride() == weight.stride()


def test_copies_from_a_gpu_are_awaited_only_by_the_reader(monkeypatch):
    """Only the order of the calls is tested, on CPU tensors that count as those of a GPU."""
    calls, to = [], torch.Tensor.to

    class Event:
        def __init__(self, blocking):
            assert blocking

        def record(self, stream):
            calls.append(f"record on {stream}")

        def synchronize(self):
            calls.append("synchronize")

    def noted(tensor, *arguments, **options):
        calls.append((arguments, options))
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(snapshot, "_is_on_gpu", lambda _: True)
    monkeypatch.setattr("torch.cuda.Event", Event)
    monkeypatch.setattr("torch.cuda.current_stream", lambda device: f"the stream of {device}")
    monkeypatch.setattr(torch.Tensor, "to", noted)
    taken = Snapshot([torch.ones(2), torch.zeros(2)])
    copies = [(("cpu",), {"non_blocking": True, "copy": True})] * 2
    assert calls == [*copies, "record on the stream of cpu"]
    taken.value()
    assert calls[3:] == ["synchronize"]
