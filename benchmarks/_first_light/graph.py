"""Check 3: images of the DALI graph on the device compared with those on the CPU, for the same plan."""

from collections.abc import Iterator
from itertools import islice

import torch
from _gpu.parity import difference

from _first_light.report import Report
from _first_light.setup import Setup
from _first_light.workloads import photograph_data, square_data, start
from fasticcl.config import Data
from fasticcl.data.batch import TrainingBatch
from fasticcl.data.cache import Cache, CacheLocation, evaluation_cache
from fasticcl.data.device_loader import DeviceLoader
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Phase, Plan
from fasticcl.shards.reader import Shards

_PHASES: tuple[Phase, ...] = ("warmup", "interpolative", "rebalance")  # those of ICCL

_BATCHES = 2  # the second reveals buffers and inputs that do not change
# Mean difference in levels from 0 to 255. Decoding and resizing on a GPU round differently. On a CPU, chroma
# that is enlarged without interpolation differs by up to 1.2 levels, and a shift by one pixel by 8.
_LIMIT = 3.0

Shape = tuple[Data, CacheLocation]
Pairs = Iterator[tuple[TrainingBatch, TrainingBatch]]


def check(setup: Setup, report: Report) -> None:
    """Compare training batches of every phase, and evaluation batches, in every shape of the graph."""
    start(setup)
    for name, (data, location) in shapes(setup).items():
        shards = Shards(data.dir, "train")
        plan = Plan(shards.index, shards.counts, data, batch_size=4 if setup.small else 32, seed=0)
        loaders = Loader(shards, plan), Loader(shards, plan, gpu=setup.gpu, cache_location=location)
        for phase in _PHASES:
            with report.part(f"{name} {phase}"):
                one, two = (loader.batches(phase) for loader in loaders)
                compare(f"{name} {phase}", islice(zip(one, two, strict=False), _BATCHES), data, report)
        with report.part(f"{name} evaluation"):
            compare(f"{name} evaluation", evaluated(setup, data, location), data, report)
    without_dali(setup, report)
    means = {name: figures["mean_levels"] for name, figures in report.figures.items()}
    largest = max(means, key=means.__getitem__, default="")
    report.note = f"at most {means.get(largest, 0):.2f} levels ({largest})"


def without_dali(setup: Setup, report: Report) -> None:
    """Compare small images that torch crops, flips and mixes on the device with those of the DALI graph."""
    data, _ = shapes(setup)["small images"]
    shards = Shards(data.dir, "train")
    plan = Plan(shards.index, shards.counts, data, batch_size=4 if setup.small else 32, seed=0)
    expected, packed = Loader(shards, plan), DeviceLoader(Loader(shards, plan, gpu=setup.gpu))
    for phase in _PHASES:
        name = f"small images without DALI {phase}"
        with report.part(name):
            device = torch.device("cpu") if setup.gpu is None else torch.device("cuda", setup.gpu)
            values = (batch.values.to(device) for batch in packed.batches(phase))
            two = (packed.images.batch(each) for each in values)
            pairs = zip(expected.batches(phase), two, strict=False)
            compare(name, islice(pairs, _BATCHES), data, report)


def shapes(setup: Setup) -> dict[str, Shape]:
    """Return settings and cache location by name."""
    plain, small = photograph_data(setup), square_data(setup)
    jitter = plain.model_copy(update={"color_jitter": (0.4, 0.4, 0.4)})
    pad = plain.model_copy(update={"crop": "pad"})
    return {
        "plain": (plain, "off"),
        "jitter": (jitter, "off"),
        "pad": (pad, "off"),
        "host cache": (plain, "host"),
        "device cache": (plain, "device"),
        "small images": (small, "off"),
        "small images, device cache": (small, "device"),
    }


def evaluated(setup: Setup, data: Data, location: CacheLocation) -> Pairs:
    """Yield evaluation batches of the CPU and of the device."""
    shards, size = Shards(data.dir, "val"), 3
    cache: Cache | None = None if location == "off" else evaluation_cache(shards, location, setup.gpu)
    return zip(
        evaluation_batches(shards, data, batch_size=size),
        evaluation_batches(shards, data, batch_size=size, cache=cache, gpu=setup.gpu),
        strict=True,
    )


def compare(name: str, pairs: Pairs, data: Data, report: Report) -> None:
    """Report the largest differences over pairs of batches, and expect them within the limit."""
    found = [difference(one, two, data) for one, two in pairs]
    mean = max(each["mean_levels"] for each in found)
    figures = {"mean_levels": round(mean, 4), "max_levels": max(each["max_levels"] for each in found)}
    equal = all(each["rest_equal"] for each in found)
    report.add(name, {**figures, "labels_and_lambda_equal": equal})
    report.expect(mean <= _LIMIT, f"{name}: the images differ by {mean:.2f} levels, more than {_LIMIT}")
    report.expect(equal, f"{name}: the labels or λ differ")
