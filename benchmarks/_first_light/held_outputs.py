"""Check 4: batches keep their values while the GPU is busy and the loader runs ahead."""

from collections.abc import Iterator
from typing import Any

import torch

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import photograph_data, square_data, start
from fasticcl.config import Data
from fasticcl.data.batch import TrainingBatch, tensors_of
from fasticcl.data.cache import CacheLocation
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards

_HELD, _LATER = 6, 6  # batches that are kept, and batches that the loader writes meanwhile
_QUEUED = 16  # matrix products before each batch, about 2 ms each in float32 on an H100
_SIDE = 4096
_LIMIT = 3.0  # largest mean difference of an image, in levels. A reused buffer holds another image.


def check(setup: Setup, report: Report) -> None:
    """Hold batches of every source of images, and compare them with those of an idle device."""
    start(setup)
    data = photograph_data(setup)
    for location in ("off", "host", "device"):
        with report.part(f"photographs, cache {location}"):
            hold(f"photographs, cache {location}", setup, data, location, report)
    with report.part("photographs, outputs copied"):
        hold("photographs, outputs copied", setup, data, "off", report, copy_outputs=True)
    with report.part("small images, cache device"):
        hold("small images, cache device", setup, square_data(setup), "device", report)


def hold(
    name: str, setup: Setup, data: Data, location: CacheLocation, report: Report, copy_outputs: bool = False
) -> None:
    """Compare held batches, and copies queued behind other work, with copies made on an idle device."""
    expected = [copied(batch) for batch in idle(setup, batches(setup, data, location))]
    held, queued = [], []
    busy = None if setup.gpu is None else torch.ones(_SIDE, _SIDE, device=f"cuda:{setup.gpu}")
    source = batches(setup, data, location, copy_outputs)
    for number in range(_HELD + _LATER):
        if busy is not None:
            queue_work(busy)
        batch = next(source)
        queued.append([value.clone() for value in tensors_of(batch).values()])
        if number < _HELD:
            held.append(batch)
        del batch  # as in training, before the device has read it
    synchronize(setup)
    std = torch.tensor(data.std)[:, None, None] * 255
    found = {
        "held": worst(expected[:_HELD], [[*tensors_of(batch).values()] for batch in held], std),
        "read in stream order": worst(expected, queued, std),
    }
    report.add(name, found)
    for kind, figures in found.items():
        title, levels = f"{name}: {kind}", figures["levels"]
        report.expect(
            levels <= _LIMIT, f"{title}: an image differs by {levels:.1f} levels from an idle device"
        )
        report.expect(figures["rest_equal"], f"{title}: labels or λ differ from an idle device")


def queue_work(matrix: torch.Tensor) -> None:
    """Queue matrix products on the current stream."""
    for _ in range(_QUEUED):
        matrix = matrix @ matrix / _SIDE


def batches(
    setup: Setup, data: Data, location: CacheLocation, copy_outputs: bool = False
) -> Iterator[TrainingBatch]:
    shards = Shards(data.dir, "train")
    plan = Plan(shards.index, shards.counts, data, batch_size=4 if setup.small else 64, seed=0)
    loader = Loader(shards, plan, gpu=setup.gpu, cache_location=location, copy_outputs=copy_outputs)
    return loader.batches("interpolative")


def idle(setup: Setup, source: Iterator[TrainingBatch]) -> Iterator[TrainingBatch]:
    """Yield the first batches, each after all queued work has finished."""
    for _ in range(_HELD + _LATER):
        batch = next(source)
        synchronize(setup)
        yield batch


def copied(batch: TrainingBatch) -> list[torch.Tensor]:
    return [value.to("cpu", copy=True) for value in tensors_of(batch).values()]


def worst(
    expected: list[list[torch.Tensor]], actual: list[list[torch.Tensor]], std: torch.Tensor
) -> dict[str, Any]:
    """Return the largest mean difference of an image in levels, and whether all other outputs are equal."""
    levels, equal = 0.0, True
    for one, two in zip(expected, actual, strict=True):
        for value, other in zip(one, two, strict=True):
            if value.ndim == 4:
                difference = ((value - other.cpu()) * std).abs().mean(dim=(1, 2, 3))
                levels = max(levels, float(difference.nan_to_num(nan=torch.inf).max()))
            else:
                equal = equal and torch.equal(value, other.cpu())
    return {"levels": levels, "rest_equal": equal}


def synchronize(setup: Setup) -> None:
    if setup.gpu is not None:
        torch.cuda.synchronize(setup.gpu)
