"""CPU and memory limits in both versions of control groups."""

import math

import pytest

from fasticcl.system import resources
from fasticcl.system.resources import cpu_quota, decoding_threads, memory_left, memory_limit


def system_root(folder, groups, **files):
    """Write ``/proc/self/cgroup`` and files of ``/sys/fs/cgroup`` below a folder, and return it."""
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(groups)
    for name, content in files.items():
        path = folder / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return folder


def test_limits_of_a_container_are_read_at_the_root(tmp_path):
    root = system_root(tmp_path, "0::/\n", **{"cpu.max": "150000 100000", "memory.max": "4294967296"})
    assert (cpu_quota(root), memory_limit(root)) == (1.5, 2**32)


def test_the_smallest_limit_of_nested_groups_applies(tmp_path):
    files = {
        "job/cpu.max": "800000 100000",
        "job/step/cpu.max": "max 100000",
        "cpu.max": "1600000 100000",
        "other/cpu.max": "100000 100000",
        "job/memory.max": "1000",
        "job/step/memory.max": "2000",
    }
    root = system_root(tmp_path, "0::/job/step\n", **files)
    assert (cpu_quota(root), memory_limit(root)) == (8.0, 1000)


def test_limits_of_version_1_are_read_per_controller(tmp_path):
    files = {
        "cpu/docker/cpu.cfs_quota_us": "250000",
        "cpu/docker/cpu.cfs_period_us": "100000",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
        "memory/memory.limit_in_bytes": "5000",
    }
    groups = "4:memory:/docker\n3:cpuset:/x\n2:cpu,cpuacct:/docker\n1:name=systemd:/\n0::/\n"
    root = system_root(tmp_path, groups, **files)
    assert (cpu_quota(root), memory_limit(root)) == (2.5, 5000)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"cpu.max": "max 100000", "memory.max": "max"},
        {"memory/memory.limit_in_bytes": "9223372036854771712"},
    ],
)
def test_missing_and_unlimited_limits_are_none(tmp_path, files):
    root = system_root(tmp_path, "1:memory:/\n0::/\n", **files)
    assert (cpu_quota(root), memory_limit(root)) == (None, None)


def test_a_system_without_control_groups_has_no_limit(tmp_path):
    assert (cpu_quota(tmp_path), memory_limit(tmp_path)) == (None, None)


@pytest.mark.parametrize(("quota", "threads"), [(None, 64), (1.5, 2), (0.2, 1), (100.0, 64)])
def test_available_cores_are_limited_by_the_quota_and_shared_by_ranks(monkeypatch, quota, threads):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(resources, "cpu_quota", lambda: quota)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resources.available_cores() == threads
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resources.available_cores() == max(1, math.floor(threads / 2))


@pytest.mark.parametrize(
    ("groups", "files", "left"),
    [
        ("0::/\n", {"memory.max": "5000000", "memory.current": "1000000"}, 4_000_000),
        ("0::/\n", {"memory.max": "max", "memory.current": "1000000"}, None),
        (
            "0::/job\n",
            {
                "job/memory.max": "900",
                "job/memory.current": "100",
                "memory.max": "1000",
                "memory.current": "950",
            },
            50,
        ),
        (
            "4:memory:/\n",
            {"memory/memory.limit_in_bytes": "7000", "memory/memory.usage_in_bytes": "2000"},
            5000,
        ),
    ],
)
def test_memory_left_is_the_minimum_over_all_groups(tmp_path, groups, files, left):
    assert memory_left(system_root(tmp_path, groups, **files)) == left


@pytest.mark.parametrize(
    ("cores", "on_cpu", "on_gpu"), [(1, 1, 1), (2, 2, 1), (4, 4, 2), (8, 8, 5), (16, 16, 13), (64, 64, 61)]
)
def test_cores_stay_free_for_other_busy_threads_with_a_gpu(monkeypatch, cores, on_cpu, on_gpu):
    monkeypatch.setattr(resources, "available_cores", lambda: cores)
    assert (decoding_threads(gpu=False), decoding_threads(gpu=True)) == (on_cpu, on_gpu)
    assert decoding_threads(gpu=True, cores=16) == 13
