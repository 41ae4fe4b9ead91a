"""Sizes, device and images, shared by all parts of `gpu.py`."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from fasticcl.bench.synthetic_images import SyntheticImages, generate_images, write_shards
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.data.plan import Phase
from fasticcl.system.machine import Mode
from fasticcl.system.resources import available_cores

CLASSES = {"imagenet-lt": 1000, "cifar100-lt": 100}
BOTH: tuple[Phase, ...] = ("warmup", "interpolative")
NO_JITTER = "data.color_jitter=[0, 0, 0]"
Figures = dict[str, Any]


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements."""

    images: int
    batch_size: int
    side: int
    networks: tuple[tuple[str, str, int], ...]
    """Preset, encoder, batch size."""
    parity: tuple[str, str, int]
    eager: str
    loads: tuple[float, ...]
    threads: tuple[int, ...]
    batches: int
    repeats: int
    seconds: float
    pause: float
    """Time in seconds for the previous system to fill its queues and become idle."""
    workers: int
    """Workers of each of a peer's two DataLoaders."""
    modes: tuple[Mode, ...]
    """Execution modes of a step. Compiling one takes minutes on a CPU."""


CORES = available_cores()
FULL = Sizes(
    images=2048,
    batch_size=256,
    side=224,
    networks=(
        ("imagenet-lt", "resnet50", 256),
        ("imagenet-lt", "resnext50_32x4d", 256),
        ("cifar100-lt", "resnet32", 128),
    ),
    parity=("imagenet-lt", "resnet18", 32),
    eager="resnet50",
    loads=(0.0, 0.5, 0.65, 0.8, 0.95),
    threads=tuple(sorted({max(1, CORES // 4), max(1, CORES // 2), CORES})),
    batches=64,
    repeats=3,
    seconds=1.5,
    pause=2.0,
    workers=max(1, CORES // 2),
    modes=("off", "on", "step", "cuda-graphs"),
)
SMALL = Sizes(
    images=40,
    batch_size=4,
    side=32,
    networks=(("imagenet-lt", "resnet18", 2), ("cifar100-lt", "resnet8", 4)),
    parity=("cifar100-lt", "resnet8", 4),
    eager="resnet18",
    loads=(0.65,),
    threads=(1, 2),
    batches=3,
    repeats=1,
    seconds=0.01,
    pause=0.0,
    workers=0,
    modes=("off",),
)


@dataclass(frozen=True)
class Bench:
    """Input of every part."""

    sizes: Sizes
    device: str
    """``cpu`` or ``gpu``."""
    folder: Path
    images: SyntheticImages
    out_of_time: Callable[[], bool]

    @property
    def shards(self) -> Path:
        """Folder of the shards."""
        return self.folder / "shards"

    @property
    def gpu(self) -> int | None:
        """Device number for DALI, or None on the CPU."""
        return 0 if self.device == "gpu" else None

    @property
    def torch_device(self) -> torch.device:
        """Device for torch."""
        return torch.device("cuda", 0) if self.device == "gpu" else torch.device("cpu")

    def workload(self, preset: str, encoder: str, batch_size: int, *assignments: str) -> Workload:
        """Return a preset on the synthetic images, with the number of classes of its real dataset."""
        squares = preset == "cifar100-lt"
        side = () if squares else (f"data.image_size={self.sizes.side}",)
        opened = open_workload(
            self.folder,
            preset,
            data=self.folder / "squares" if squares else self.shards,
            encoder=encoder,
            batch_size=batch_size,
            device=self.device,
            assignments=[*side, *assignments],
        )
        return replace(opened, num_classes=CLASSES[preset])


def prepare(sizes: Sizes, device: str, folder: Path, out_of_time: Callable[[], bool]) -> Bench:
    classes = min(20, sizes.images // 10)
    images = generate_images(sizes.images, classes, CORES)
    write_shards(images, folder / "shards")
    squares = generate_images(sizes.images, classes, CORES, width=32, height=32, png=True)
    write_shards(squares, folder / "squares")
    return Bench(sizes, device, folder, images, out_of_time)
