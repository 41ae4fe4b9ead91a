"""Sizes, device and images, shared by all parts of `gpu.py`."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from _gpu.rows import Figures, Row
from fasticcl.bench.synthetic_images import SyntheticImages, generate_images, write_shards
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.config import Data
from fasticcl.data.plan import Phase
from fasticcl.system.machine import Mode
from fasticcl.system.resources import available_cores

__all__ = ["BOTH", "CORES", "FULL", "NO_JITTER", "SMALL", "Bench", "Figures", "Row", "Sizes"]

CLASSES = {"imagenet-lt": 1000, "cifar100-lt": 100}
BOTH: tuple[Phase, ...] = ("interpolative", "warmup")
NO_JITTER = "data.color_jitter=[0, 0, 0]"


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements."""

    images: int
    batch_size: int
    side: int
    networks: Mapping[str, tuple[str, str, int]]
    """Preset, encoder and batch size of each part that trains a network."""
    peers: str
    """A torchvision network."""
    parity: tuple[str, str, int]
    loads: tuple[float, ...]
    threads: tuple[int, ...]
    batches: int
    repeats: int
    peer_repeats: int
    seconds: float
    pause: float
    """Time in seconds for the previous system to fill its queues and become idle."""
    workers: int
    """Workers of each of a peer's two DataLoaders."""
    modes: tuple[Mode, ...]
    """Execution modes that are compared with eager. Compiling one takes minutes on a CPU."""
    compiled: bool
    """True if the steps of plain torch are compiled as ours are."""
    cifar: tuple[str, ...]
    """Options of the run on CIFAR-100-LT."""


CORES = available_cores()
FULL = Sizes(
    images=512,
    batch_size=256,
    side=224,
    networks={
        "resnet50": ("imagenet-lt", "resnet50", 256),
        "resnet32": ("cifar100-lt", "resnet32", 128),
        "resnext50": ("imagenet-lt", "resnext50_32x4d", 256),
    },
    peers="resnet50",
    parity=("imagenet-lt", "resnet18", 32),
    loads=(0.65, 0.0, 0.9),
    threads=tuple(sorted({max(1, CORES - 2), max(1, CORES // 2)}, reverse=True)),
    batches=48,
    repeats=3,
    peer_repeats=2,
    seconds=2.0,
    pause=1.0,
    workers=max(1, CORES // 2),
    modes=("on", "step", "cuda-graphs"),
    compiled=True,
    cifar=(),
)
SMALL = Sizes(
    images=40,
    batch_size=4,
    side=32,
    networks={
        "resnet50": ("imagenet-lt", "resnet8", 2),
        "resnet32": ("cifar100-lt", "resnet8", 4),
        "resnext50": ("imagenet-lt", "resnet8", 2),
    },
    peers="resnet18",
    parity=("cifar100-lt", "resnet8", 4),
    loads=(0.65,),
    threads=(2, 1),
    batches=3,
    repeats=1,
    peer_repeats=1,
    seconds=0.01,
    pause=0.0,
    workers=0,
    modes=("off",),
    compiled=False,
    cifar=("--fast-dev-run", "--batch-size", "4"),
)


@dataclass(frozen=True)
class Bench:
    """Input of every part. Images are generated when a row first needs them."""

    sizes: Sizes
    device: str
    """``cpu`` or ``gpu``."""
    folder: Path
    """Folder for temporary files."""
    cifar: Path | None = None
    """Shards of CIFAR-100-LT, or None."""
    seconds_left: Callable[[], float] = lambda: math.inf
    """Returns the time until the deadline of the benchmark."""
    whole_images: bool = False
    """If True, every image is decoded whole and then cut."""

    @cached_property
    def images(self) -> SyntheticImages:
        """Synthetic photographs."""
        return generate_images(self.sizes.images, self._classes, CORES)

    @cached_property
    def shards(self) -> Path:
        """Folder of the shards of `images`."""
        write_shards(self.images, self.folder / "shards")
        return self.folder / "shards"

    @cached_property
    def squares(self) -> Path:
        """Folder of the shards of images of 32×32 pixels."""
        squares = generate_images(self.sizes.images, self._classes, CORES, width=32, height=32, png=True)
        write_shards(squares, self.folder / "squares")
        return self.folder / "squares"

    @property
    def _classes(self) -> int:
        return min(20, self.sizes.images // 10)

    @property
    def gpu(self) -> int | None:
        """Device number for DALI, or None on the CPU."""
        return 0 if self.device == "gpu" else None

    @property
    def torch_device(self) -> torch.device:
        """Device for torch."""
        return torch.device("cuda", 0) if self.device == "gpu" else torch.device("cpu")

    @property
    def assignments(self) -> list[str]:
        """Settings of every workload, as in ``--set``."""
        return ["data.decode_regions=false"] if self.whole_images else []

    def data(self, folder: Path) -> Data:
        """Return the settings of images in a folder of shards."""
        return Data(
            dataset="folder",
            dir=folder,
            image_size=self.sizes.side,
            eval_resize=0,
            decode_regions=not self.whole_images,
        )

    def workload(self, preset: str, encoder: str, batch_size: int, *assignments: str) -> Workload:
        """Return a preset on the synthetic images, with the number of classes of its real dataset."""
        small = preset == "cifar100-lt"
        side = () if small else (f"data.image_size={self.sizes.side}",)
        opened = open_workload(
            self.folder,
            preset,
            data=self.squares if small else self.shards,
            encoder=encoder,
            batch_size=batch_size,
            device=self.device,
            assignments=[*side, *self.assignments, *assignments],
        )
        return replace(opened, num_classes=CLASSES[preset])
