"""Facts of simulated machines for the checks of doctor."""

from dataclasses import replace

from fasticcl.doctor.facts import (
    Facts,
    Gpu,
    Limits,
    Nvidia,
    ProbeResult,
    ReadSpeed,
    Software,
    StoredShards,
)
from fasticcl.doctor.reference_image import COLORS

GIB = 2**30
DECODED = ProbeResult({"colors": COLORS})
SOFTWARE = Software(
    fasticcl="0.1.0",
    python="3.12.3",
    system="Linux x86_64 glibc 2.39",
    packages={"torch": "2.15.0", "torchvision": "0.29.2", "nvidia-dali-cuda120": "2.4.0"},
    minimum_versions={"torch": "2.11", "torchvision": "0.26", "nvidia-dali-cuda120": "2.4"},
    torch_required_by_torchvision=">=2.14.0",
)
LIMITS = Limits(
    cpu="some CPU",
    bfloat16=(),
    cores=16,
    cpu_quota=None,
    torch_threads=16,
    idle_threads_sleep=True,
    memory=128 * GIB,
    free_memory=100 * GIB,
    memory_limit=None,
    shared_memory=64 * GIB,
    open_files=1_048_576,
)
CPU_PROBES = {
    "torch": ProbeResult({"version": "2.15.0+cu132", "cuda": "13.2"}),
    "torchvision": ProbeResult({"version": "0.29.2+cu132"}),
    "dali": ProbeResult({"version": "2.4.0"}),
    "dali_decoding": DECODED,
    "joint_decoding": DECODED,
}
LAPTOP = Facts(SOFTWARE, CPU_PROBES, Nvidia(), LIMITS)
"""A machine without a GPU and without problems."""
H100 = replace(
    LAPTOP,
    probes=CPU_PROBES
    | {
        "torch_on_gpu": ProbeResult({"gpus": ["NVIDIA H100 80GB HBM3"]}),
        "dali_decoding_on_gpu": DECODED,
        "dali_regions_on_gpu": DECODED,
        "jpeg_engine": ProbeResult({"engines": 1, "cores": 7}),
    },
    nvidia=Nvidia(1, "580.65.06", 13, (Gpu("NVIDIA H100 80GB HBM3", 81559),)),
    stored=StoredShards("inat2018", 462_000, 231, 400, read_speed=ReadSpeed(400_000_000, 4096, 0.5, True)),
)
"""A machine with one GPU and a dataset, without problems."""


def with_packages(facts: Facts = LAPTOP, **packages: str | None) -> Facts:
    """Return facts with other packages, such as ``nvidia_dali="0.0.1"``. None removes a package."""
    versions = {name.replace("_", "-"): version for name, version in packages.items()}
    versions = {name: version for name, version in (facts.software.packages | versions).items() if version}
    return replace(facts, software=replace(facts.software, packages=versions))


def with_probes(facts: Facts = LAPTOP, **results: str | dict) -> Facts:
    """Return facts with other probe results, each given as values or as the text of an error."""
    probes = {
        name: ProbeResult(error=result) if isinstance(result, str) else ProbeResult(result)
        for name, result in results.items()
    }
    return replace(facts, probes={**facts.probes, **probes})


def with_limits(facts: Facts = LAPTOP, **limits: float | None) -> Facts:
    """Return facts with other limits."""
    return replace(facts, limits=replace(facts.limits, **limits))


def with_nvidia(facts: Facts = H100, **nvidia: object) -> Facts:
    """Return facts with another driver or other GPUs."""
    return replace(facts, nvidia=replace(facts.nvidia, **nvidia))


def with_shards(facts: Facts = H100, **stored: object) -> Facts:
    """Return facts with other shards."""
    return replace(facts, stored=replace(facts.stored, **stored))
