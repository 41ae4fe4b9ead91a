"""The allocator keeps freed memory: allocating it again causes no page faults."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from fasticcl.system import allocator

SCRIPT = """
import ctypes, resource, sys
from fasticcl.system.allocator import keep_freed_memory
kept = keep_freed_memory("cpu") if sys.argv[1] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def allocate_and_free():
    block = libc.malloc(SIZE)
    ctypes.memset(block, 1, SIZE)
    libc.free(block)

SIZE = 48 * 2**20
allocate_and_free()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    allocate_and_free()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(argument):
    """Return the result of keep_freed_memory and the number of page faults of five large allocations."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, argument], capture_output=True, text=True, check=True
    )
    accepted, faults = done.stdout.split()
    return accepted, int(faults)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="malloc of glibc")
def test_freed_memory_is_used_again_without_page_faults():
    _, by_default = page_faults("default")
    accepted, faults = page_faults("keep")
    assert accepted == "True"
    assert faults < 10 < by_default


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: object())
    assert allocator.keep_freed_memory() is False


@pytest.mark.parametrize(("device", "calls"), [(None, 0), ("auto", 0), ("gpu", 0), ("cpu", 4)])
def test_allocator_is_left_alone_if_batches_are_on_a_gpu(monkeypatch, device, calls):
    options = []
    libc = SimpleNamespace(mallopt=lambda *option: options.append(option) or 1)
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda _: libc)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert allocator.keep_freed_memory(device) == bool(calls)
    assert len(options) == calls
