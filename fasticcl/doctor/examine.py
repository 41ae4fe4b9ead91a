"""Gather all facts, then run all checks."""

from collections.abc import Callable
from pathlib import Path

from fasticcl.doctor import host, nvidia, probe_runner
from fasticcl.doctor.checks import data, decoding, gpu, machine, software
from fasticcl.doctor.facts import Facts, Finding, StoredShards

CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    software.python,
    software.torch,
    software.torchvision,
    software.dali,
    software.cuda_pairing,
    gpu.driver,
    gpu.gpu,
    gpu.jpeg_engine,
    machine.cores,
    machine.bfloat16,
    machine.memory,
    machine.shared_memory,
    machine.open_files,
    decoding.dali,
    decoding.dali_on_gpu,
    decoding.dali_regions_on_gpu,
    decoding.single_process,
    data.shards,
    data.disk,
)


def examine(folder: Path | None) -> list[Finding]:
    """Return the findings for this machine and, if a folder is given, for the shards in it."""
    return judge(gather(folder))


def judge(facts: Facts) -> list[Finding]:
    """Return the findings of all checks that apply, in the order of `CHECKS`."""
    findings = (check(facts) for check in CHECKS)
    return [finding for finding in findings if finding]


def gather(folder: Path | None) -> Facts:
    """Return the facts about this machine, without importing torch or DALI into this process."""
    driver = nvidia.read_nvidia()
    groups = [
        *probe_runner.CPU_PROBES,
        *(probe_runner.GPU_PROBES if driver.gpus or driver.cuda else ()),
    ]
    return Facts(
        software=host.read_software(),
        # Measured first, because the probes keep all cores busy with imports.
        stored=None if folder is None else _read_shards(folder),
        probes=probe_runner.run_all(groups),
        nvidia=driver,
        limits=host.read_limits(),
    )


def _read_shards(folder: Path) -> StoredShards:
    try:
        from fasticcl.doctor import stored_shards
    except Exception as error:  # NumPy may be broken as well
        return StoredShards(problem=f"cannot be checked: {type(error).__name__}: {error}")
    return stored_shards.read_shards(folder)
