"""All facts, then all findings."""

from collections.abc import Callable
from pathlib import Path

from fasticcl.doctor import limits, nvidia, probe_runner, software
from fasticcl.doctor.checks import data, decoding, gpu, machine
from fasticcl.doctor.checks import software as packages
from fasticcl.doctor.facts import Facts, Stored
from fasticcl.doctor.finding import Finding

CHECKS: tuple[Callable[[Facts], Finding | None], ...] = (
    packages.python,
    packages.torch,
    packages.torchvision,
    packages.dali,
    packages.pairing,
    gpu.driver,
    gpu.gpu,
    gpu.jpeg_engine,
    machine.cores,
    machine.memory,
    machine.shared_memory,
    machine.open_files,
    decoding.with_torch,
    decoding.with_dali,
    decoding.with_dali_on_gpu,
    decoding.together,
    data.shards,
    data.disk,
)


def examine(folder: Path | None) -> list[Finding]:
    """Return the findings of this machine, and of the shards in a folder."""
    return judge(gather(folder))


def judge(facts: Facts) -> list[Finding]:
    """Return what facts mean, in the order of `CHECKS`."""
    findings = (check(facts) for check in CHECKS)
    return [finding for finding in findings if finding]


def gather(folder: Path | None) -> Facts:
    """Return the facts of this machine; nothing here imports torch or DALI into this process."""
    driver = nvidia.read()
    groups = [*probe_runner.CPU, *(probe_runner.GPU if driver.cards or driver.cuda else ())]
    return Facts(
        software=software.read(),
        stored=None if folder is None else _stored(folder),  # before the cores are busy with imports
        trials=probe_runner.run_all(groups),
        nvidia=driver,
        limits=limits.read(),
    )


def _stored(folder: Path) -> Stored:
    try:
        from fasticcl.doctor import stored_shards
    except Exception as error:  # NumPy, too, may be broken
        return Stored(problem=f"cannot be looked at: {type(error).__name__}: {error}")
    return stored_shards.read(folder)
