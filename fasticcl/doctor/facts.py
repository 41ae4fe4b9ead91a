"""What is known of a machine. Nothing here judges: a test can describe a machine that is not at hand."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Trial:
    """What came of a step that was tried in a process of its own."""

    found: Mapping[str, Any] | None = None
    """What the step reported; None where it failed."""
    error: str = ""
    """Why it failed."""


@dataclass(frozen=True)
class Software:
    """What is installed, as its metadata says: known also of what cannot be imported."""

    fasticcl: str
    python: str
    system: str
    packages: Mapping[str, str]
    """Version of torch, torchvision and of every DALI package, by normalised name."""
    needed: Mapping[str, str]
    """Oldest version that fasticcl works with, by package."""
    torch_of_torchvision: str
    """What torchvision says of the torch that it was built for, such as ``==2.15.0``."""


@dataclass(frozen=True)
class Card:
    """A GPU as nvidia-smi describes it."""

    name: str
    memory_mib: float


@dataclass(frozen=True)
class Nvidia:
    """Driver and GPUs, without torch."""

    on_bus: int = 0
    """NVIDIA cards that the kernel sees, with or without a driver."""
    driver: str = ""
    """Version of the driver; empty: none."""
    cuda: int = 0
    """Newest major version of CUDA that the driver serves; 0: there is no libcuda."""
    cards: tuple[Card, ...] = ()
    trouble: str = ""
    """What nvidia-smi said instead of an answer."""
    visible: str | None = None
    """CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Limits:
    """What this process may use; bytes."""

    cpu: str
    cores: int
    """Cores that it may run on."""
    quota: float | None
    """Cores' worth of time that its control group grants; None: no limit."""
    torch_threads: int
    """Threads that torch computes with on a CPU, unless told otherwise."""
    memory: int
    memory_free: int
    memory_limit: int | None
    """Of the control group; None: no limit."""
    shared: int
    """Size of /dev/shm; 0: there is none."""
    open_files: int
    """The hard limit, up to which fasticcl raises its own."""


@dataclass(frozen=True)
class Reading:
    """How fast images were read, drawn at random as in training."""

    bytes: int
    images: int
    seconds: float
    cold: bool
    """Whether they came from the disk and not from the page cache."""


@dataclass(frozen=True)
class Stored:
    """The shards of ``--data``."""

    dataset: str = ""
    images: int = 0
    shards: int = 0
    sampled: int = 0
    """Images whose checksum was compared."""
    problem: str = ""
    """What is wrong with them."""
    reading: Reading | None = None


@dataclass(frozen=True)
class Facts:
    """All that doctor goes by."""

    software: Software
    trials: Mapping[str, Trial]
    """By step, see ``health.probe``; a step that makes no sense on this machine is absent."""
    nvidia: Nvidia
    limits: Limits
    stored: Stored | None = None
    """None: no ``--data``."""
