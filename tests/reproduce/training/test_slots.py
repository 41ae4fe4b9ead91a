"""GPUs, threads and cores are divided among runs that are trained at the same time."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.training.slots import divide, machine_slots, name_gpus, visible_gpus
from fasticcl.resolve import configure


@settings(max_examples=30)
@given(count=st.integers(1, 12), gpus=st.integers(1, 8), cores=st.integers(1, 64))
def test_each_gpu_gets_the_same_number_of_slots(count, gpus, cores):
    slots = divide(count, [f"GPU-{i}" for i in range(gpus)], cores, {})
    used = Counter(slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots)
    assert len(slots) == count
    assert len(used) == min(count, gpus)
    assert max(used.values()) - min(used.values()) <= 1


@settings(max_examples=30)
@given(count=st.integers(2, 12), cores=st.integers(1, 64))
def test_cores_are_divided_on_a_cpu(count, cores):
    for slot in divide(count, [], cores, {}):
        threads = int(slot.environment["OMP_NUM_THREADS"])
        assert threads * count <= max(cores, count)
        assert (threads + 1) * count > cores
        assert slot.workers == threads
        assert "CUDA_VISIBLE_DEVICES" not in slot.environment


def test_one_slot_leaves_the_threads_to_the_run():
    (slot,) = divide(1, [], 8, {})
    assert (slot.environment, slot.workers) == ({}, None)


def test_with_gpus_some_cores_of_each_slot_do_not_decode():
    slots = divide(2, ["0", "1"], 24, {})
    assert [slot.workers for slot in slots] == [9, 9]  # 12 without the three busy threads of a run


def test_number_of_threads_that_the_user_has_set_is_kept():
    assert "OMP_NUM_THREADS" not in divide(2, [], 8, {"OMP_NUM_THREADS": "1"})[0].environment


@pytest.mark.parametrize(
    ("count", "visible", "names"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "5, 3", ["5", "3"]),
        (1, "MIG-a", ["MIG-a"]),
        (1, "2,9", ["2"]),  # CUDA ignores indices after the first that does not exist
        (0, "", []),
    ],
)
def test_gpus_are_named_as_the_environment_names_them(count, visible, names):
    assert name_gpus(count, visible) == names


@pytest.mark.parametrize(
    ("device", "jobs", "gpus"),
    [("cpu", None, [None]), ("auto", None, ["3", "1"]), ("gpu", 3, ["3", "1", "3"])],
)
def test_every_gpu_gets_a_run_unless_the_device_is_the_cpu(monkeypatch, device, jobs, gpus):
    """Without a GPU, the number that CUDA reports is replaced."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    plan = Plan(cells=(), jobs=[Job(configure("demo", name="a", device=device), cells=())])
    slots = machine_slots(plan, jobs)
    assert [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots] == gpus
    assert visible_gpus() == ["3", "1"]
