"""Facts about a machine and the findings that checks derive from them.

Facts contain no judgement, so tests can describe machines that are not available.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class ProbeResult:
    """Result of a probe that ran in a subprocess."""

    values: Mapping[str, Any] | None = None
    """The values that the probe returned, or None if it failed."""
    error: str = ""
    """Error message, or empty if the probe succeeded."""


@dataclass(frozen=True)
class Software:
    """Installed packages according to their metadata, which is available even if they cannot be imported."""

    fasticcl: str
    python: str
    system: str
    packages: Mapping[str, str]
    """Versions of torch, torchvision and every DALI package, by normalised name."""
    minimum_versions: Mapping[str, str]
    """Oldest version that fasticcl supports, by package."""
    torch_required_by_torchvision: str
    """The requirement in torchvision's metadata, for example ``==2.15.0``."""


@dataclass(frozen=True)
class Gpu:
    """A GPU as reported by nvidia-smi."""

    name: str
    memory_mib: float


@dataclass(frozen=True)
class Nvidia:
    """The NVIDIA driver and GPUs, determined without torch."""

    pci_devices: int = 0
    """Number of NVIDIA GPUs on the PCI bus, with or without a driver."""
    driver: str = ""
    """Version of the driver, or empty if there is none."""
    cuda: int = 0
    """Newest major version of CUDA that the driver supports, or 0 if there is no libcuda."""
    gpus: tuple[Gpu, ...] = ()
    smi_error: str = ""
    """Error message of nvidia-smi."""
    visible_devices: str | None = None
    """Value of CUDA_VISIBLE_DEVICES."""


@dataclass(frozen=True)
class Limits:
    """Resources available to this process. Sizes are in bytes."""

    cpu: str
    bfloat16: tuple[str, ...]
    """bfloat16 instruction sets of the CPU, as the kernel calls them."""
    cores: int
    """Cores in the CPU affinity mask."""
    cpu_quota: float | None
    """CPU quota of the control group, in cores, or None if unlimited."""
    torch_threads: int
    """Number of threads that torch uses on a CPU by default."""
    idle_threads_sleep: bool
    """True if an idle OpenMP thread sleeps at once."""
    memory: int
    free_memory: int
    memory_limit: int | None
    """Memory limit of the control group, or None if unlimited."""
    shared_memory: int
    """Size of /dev/shm, or 0 if it does not exist."""
    open_files: int
    """Hard limit of open files, to which fasticcl raises its soft limit."""


@dataclass(frozen=True)
class ReadSpeed:
    """Result of reading images in random order, as in training."""

    bytes: int
    images: int
    seconds: float
    cold: bool
    """True if the images came from the disk rather than the page cache."""


@dataclass(frozen=True)
class StoredShards:
    """The shards in the folder given as ``--data``."""

    dataset: str = ""
    images: int = 0
    shards: int = 0
    sampled: int = 0
    """Number of images whose checksums were compared."""
    problem: str = ""
    """Description of the damage, or empty if the shards are intact."""
    read_speed: ReadSpeed | None = None


@dataclass(frozen=True)
class Facts:
    """The input of all checks."""

    software: Software
    probes: Mapping[str, ProbeResult]
    """Results by name of the probe (`fasticcl.doctor.probes`). Probes that do not apply are absent."""
    nvidia: Nvidia
    limits: Limits
    stored: StoredShards | None = None
    """None without ``--data``."""


@dataclass(frozen=True)
class Finding:
    """One line of ``fasticcl doctor``."""

    name: str
    """The subject of the check."""
    status: Status
    """error: training does not work. warning: training works, but slowly or with restrictions."""
    found: str
    """Description of the state, with versions."""
    advice: str = ""
    """Recommended action, or empty if the status is ok."""

    def to_dict(self) -> dict[str, str]:
        """Return the fields as a dictionary for JSON."""
        return asdict(self)
