"""Options and result of a tiny benchmark, and the command line."""

import pytest

import fasticcl

# Sizes at which a step takes milliseconds.
TINY = {
    "images": 20,
    "batch_size": 4,
    "image_size": 16,
    "encoder": "resnet8",
    "device": "cpu",
    "workers": 1,
    "seconds": 0.01,
    "repeats": 2,
}


@pytest.fixture(scope="session")
def tiny():
    """Options of a benchmark that takes about a second."""
    return TINY


@pytest.fixture(autouse=True)
def no_bfloat16_instructions(monkeypatch):
    """Measure the same on every CPU."""
    monkeypatch.setattr("fasticcl.bench.workload.bfloat16_instructions", tuple)


@pytest.fixture(scope="session")
def full_result():
    """Result of the benchmark `all` on synthetic images, on a CPU with bfloat16 instructions."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("fasticcl.bench.workload.bfloat16_instructions", lambda: ("amx_bf16",))
        return fasticcl.benchmark("all", **TINY)


@pytest.fixture
def fasticcl_command(run_cli, monkeypatch, tmp_path):
    """The fixture `run_cli` in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fasticcl.cli.bench.keep_freed_memory", lambda _: True)
    return run_cli
