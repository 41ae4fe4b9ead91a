"""Facts of machines that are not at hand."""

from dataclasses import replace

from fasticcl.doctor.facts import Card, Facts, Limits, Nvidia, Reading, Software, Stored, Trial
from fasticcl.doctor.test_picture import COLORS

GIB = 2**30
NEEDED = {"torch": "2.11", "torchvision": "0.26", "nvidia-dali-cuda120": "2.4"}
SEEN = Trial({"colors": COLORS})
SOFTWARE = Software(
    fasticcl="0.1.0",
    python="3.12.3",
    system="Linux x86_64 glibc 2.39",
    packages={"torch": "2.15.0", "torchvision": "0.29.2", "nvidia-dali-cuda120": "2.4.0"},
    needed=NEEDED,
    torch_of_torchvision=">=2.14.0",
)
LIMITS = Limits(
    cpu="some CPU",
    cores=16,
    quota=None,
    torch_threads=16,
    memory=128 * GIB,
    memory_free=100 * GIB,
    memory_limit=None,
    shared=64 * GIB,
    open_files=1_048_576,
)
TRIALS = {
    "torch": Trial({"version": "2.15.0+cu132", "cuda": "13.2"}),
    "torchvision": Trial({"version": "0.29.2+cu132"}),
    "torch_decodes": SEEN,
    "dali": Trial({"version": "2.4.0"}),
    "dali_decodes": SEEN,
    "together": SEEN,
}
LAPTOP = Facts(SOFTWARE, TRIALS, Nvidia(), LIMITS)
"""No GPU, everything in order."""
H100 = replace(
    LAPTOP,
    trials=TRIALS
    | {
        "torch_computes": Trial({"gpus": ["NVIDIA H100 80GB HBM3"]}),
        "dali_decodes_on_gpu": SEEN,
        "jpeg_engine": Trial({"engines": 1, "cores": 7}),
    },
    nvidia=Nvidia(1, "580.65.06", 13, (Card("NVIDIA H100 80GB HBM3", 81559),)),
    stored=Stored("inat2018", 462_000, 231, 400, reading=Reading(400_000_000, 4096, 0.5, True)),
)
"""One GPU and a dataset, everything in order."""


def installed(facts: Facts = LAPTOP, **packages: str | None) -> Facts:
    """The machine with other packages: ``nvidia_dali="0.0.1"``; None takes one away."""
    named = {name.replace("_", "-"): version for name, version in packages.items()}
    kept = {name: version for name, version in (facts.software.packages | named).items() if version}
    return replace(facts, software=replace(facts.software, packages=kept))


def tried(facts: Facts = LAPTOP, **trials: Trial | str | dict) -> Facts:
    """The machine with other outcomes: what a step found, or the text of its error."""
    outcomes = {
        name: Trial(error=outcome) if isinstance(outcome, str) else Trial(outcome)
        for name, outcome in trials.items()
    }
    return replace(facts, trials={**facts.trials, **outcomes})


def limited(facts: Facts = LAPTOP, **limits: float | None) -> Facts:
    """The machine with other limits."""
    return replace(facts, limits=replace(facts.limits, **limits))


def driven(facts: Facts = H100, **nvidia: object) -> Facts:
    """The machine with another driver or other GPUs."""
    return replace(facts, nvidia=replace(facts.nvidia, **nvidia))


def holding(facts: Facts = H100, **stored: object) -> Facts:
    """The machine with other shards."""
    return replace(facts, stored=replace(facts.stored, **stored))
