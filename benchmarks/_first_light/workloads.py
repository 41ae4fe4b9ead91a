"""Images, shards and workloads that the checks share."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from _first_light.setup import Setup
from fasticcl.bench.synthetic_images import HEIGHT, WIDTH, SyntheticImages, generate_images, write_shards
from fasticcl.bench.training import BenchLoop, open_loop
from fasticcl.bench.workload import Workload, open_workload
from fasticcl.config import Data
from fasticcl.data.plan import Phase
from fasticcl.engine.captured_step import captured_training
from fasticcl.engine.loop import AnyBatch
from fasticcl.engine.stages.stage import learn
from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.resources import available_cores

IMAGENET_CLASSES = 1000
_CLASSES = 8  # of the synthetic images


@contextmanager
def open_training(workload: Workload, phase: Phase) -> Iterator[tuple[BenchLoop, Iterator[AnyBatch]]]:
    """Yield the training loop of a workload and its batches, as in training in the mode of the workload.

    Raises:
        RuntimeError: a step cannot be captured in the mode ``captured``.
    """
    loader, step = workload.loader(), learn
    if workload.machine.mode == "captured":
        loader, step = captured_training(loader, workload.machine, _fail)
    with open_loop(workload, phase, loader, step) as loop:
        yield loop, loader.batches(phase)


def _fail(message: str) -> None:
    raise RuntimeError(message)


def start(setup: Setup) -> None:
    """Prepare this process as `fasticcl train` does.

    Raises:
        RuntimeError: the GPU is missing.
    """
    if setup.gpu is not None and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU. Add --device cpu --small.")
    keep_freed_memory()
    if setup.small:
        torch.set_num_threads(1)  # more threads do not speed up networks this small


def photographs(setup: Setup) -> Path:
    """Return shards of JPEGs like those of ImageNet."""
    count, width, height = (24, 96, 72) if setup.small else (320, WIDTH, HEIGHT)
    cores = available_cores()
    return _shards(
        setup.folder / "photographs",
        lambda: generate_images(count, _CLASSES, cores, width=width, height=height),
    )


def squares(setup: Setup, side: int = 32) -> Path:
    """Return shards of small PNGs like those of CIFAR."""
    count, cores = 128 if setup.small else 1024, available_cores()
    return _shards(
        setup.folder / f"squares{side}",
        lambda: generate_images(count, _CLASSES, cores, width=side, height=side, png=True),
    )


def photograph_data(setup: Setup) -> Data:
    """Return the settings of `photographs` without jitter."""
    side = 32 if setup.small else 224
    return Data(
        dataset="folder",
        dir=photographs(setup),
        image_size=side,
        eval_resize=side,
        decode_regions=setup.decode_regions,
    )


def square_data(setup: Setup) -> Data:
    """Return the settings of `squares` with padded crops."""
    return Data(
        dataset="folder",
        dir=squares(setup),
        image_size=32,
        eval_resize=0,
        crop="pad",
        decode_regions=setup.decode_regions,
    )


def _shards(folder: Path, generate: Callable[[], SyntheticImages]) -> Path:
    """Return a folder of shards, which appears only when it is complete."""
    if not folder.exists():
        unfinished = folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that was stopped
        write_shards(generate(), unfinished)
        unfinished.rename(folder)
    return folder


def photograph_workload(
    setup: Setup, encoder: str, batch_size: int, side: int, *assignments: str
) -> Workload:
    """Return the preset imagenet-lt with 1,000 classes on photographs."""
    opened = open_workload(
        setup.folder,
        "imagenet-lt",
        data=photographs(setup),
        encoder=encoder,
        batch_size=batch_size,
        device=setup.device,
        assignments=[f"data.image_size={side}", f"data.eval_resize={side}", *setup.assignments, *assignments],
    )
    return replace(opened, num_classes=IMAGENET_CLASSES)


def square_workload(setup: Setup, encoder: str, batch_size: int, *assignments: str) -> Workload:
    """Return the preset cifar100-lt on small squares."""
    return open_workload(
        setup.folder,
        "cifar100-lt",
        data=squares(setup),
        encoder=encoder,
        batch_size=batch_size,
        device=setup.device,
        assignments=[*setup.assignments, *assignments],
    )
