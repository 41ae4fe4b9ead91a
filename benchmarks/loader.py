"""Pairs per second of fasticcl's loader, and of two torch DataLoaders, measured in turns.

    python benchmarks/loader.py [--images 600] [--batch-size 32] [--seconds 8] [--repeats 5]
                                [--workers N] [--json FILE]

It needs the extra ``demo``: the images are cut from the two photographs that ship with scikit-learn.
Both systems get the same JPEG bytes and give the same thing: class-agnostic images x_h, mixed images
x_f = λ·x_h + (1 - λ)·x_t with class-balanced x_t, both float32, 224×224 and normalised, the labels and
one λ per batch, with a random-resized crop and a random flip per image. The batch is looked at and
dropped; there is no model. The files are in the page cache after the first pass, so no disk is measured.

    ours    fasticcl's Loader in the interpolative phase, one DALI thread per core
    peer    two DataLoaders over an ImageFolder with torchvision's transforms, zipped, mixed in torch
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _machine import machine  # pyrefly: ignore[missing-import]  # beside this script, no package
from PIL import Image
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader, WeightedRandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from fasticcl.config import Data
from fasticcl.data.convert import convert
from fasticcl.data.cores import available_cores
from fasticcl.data.loader import Batch, Loader
from fasticcl.data.longtail import exponential_counts
from fasticcl.data.memory import keep_freed_memory
from fasticcl.data.plan import Plan
from fasticcl.data.shards import Shards
from fasticcl.data.sources import Item, Source

CLASSES, IMBALANCE = 20, 20
WIDTH, HEIGHT = 500, 375  # the commonest size in ImageNet
NOISE = 3.5  # standard deviation; bicubic enlargement alone is smoother, so cheaper to decode, than a photo
QUALITY = 93  # gives about 70 kB at this size and noise
WARMUP = 8  # batches; more than either system holds ready, so none made before the clock ran is counted
SETTLE = 2.0  # seconds in which the system that just stopped fills its queues and falls idle
QUIET = 0.5  # load average above which something else ran; starting Python and torch takes 0.1 to 0.2
LISTED = 50  # how often the peer's epoch lists each image

Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""x_h, y_h, x_f, y_t, λ."""


def main() -> None:
    """Measure, print, and write the result if asked to."""
    options = parse()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        result = benchmark(options, Path(folder))
    result["machine"] = machine() | {"load_average": round(load, 2)}
    if load > QUIET:
        result["note"] = f"the machine was not quiet: load average {load:.2f} at the start"
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Pairs per second of fasticcl's loader and of torch's.")
    parser.add_argument("--images", type=int, default=600, help="at least so many (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=32, help="pairs (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=8, help="per measurement (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each (default %(default)s)")
    parser.add_argument("--workers", type=int, default=available_cores(), help="default: one per core")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    items = make_images(options.images)
    write_files(items, folder / "files")
    # The peer starts first: its workers are forked, which is best done before DALI has threads.
    peer, trials = faster_peer(folder / "files", options)
    ours = our_batches(items, folder / "shards", options)
    runs = in_turns({"ours": ours, "peer": peer}, options)
    ratios = [our_rate / peer_rate for our_rate, peer_rate in zip(runs["ours"], runs["peer"], strict=True)]
    return {
        "benchmark": "loader",
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
        "images": {
            "count": len(items),
            "classes": CLASSES,
            "imbalance": IMBALANCE,
            "width": WIDTH,
            "height": HEIGHT,
            "mean_bytes": round(statistics.mean(len(item.read()) for item in items)),
        },
        "peer_trials": [{"workers_per_loader": n, "pairs_per_second": rate} for n, rate in trials.items()],
        "peer_workers_per_loader": max(trials, key=lambda workers: trials[workers]),
        "pairs_per_second": {name: summary(rates) for name, rates in runs.items()},
        "ratio": summary(ratios),
    }


def make_images(least: int) -> list[Item]:
    """Return JPEGs cut from two photographs, in a long tail of classes, ``least`` images or a few more."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    largest = IMBALANCE
    while exponential_counts(largest, CLASSES, IMBALANCE).sum() < least:
        largest += 1
    return [
        Item(random_jpeg(photographs[rng.integers(len(photographs))], rng), label, f"{label:02}/{number}.jpg")
        for label, count in enumerate(exponential_counts(largest, CLASSES, IMBALANCE))
        for number in range(count)
    ]


def random_jpeg(photograph: Image.Image, rng: np.random.Generator) -> bytes:
    """Return a random window of a photograph, enlarged or reduced to size, with noise as of a sensor."""
    width = int(rng.uniform(0.5, 1) * min(photograph.width, photograph.height * WIDTH / HEIGHT))
    height = width * HEIGHT // WIDTH
    left = int(rng.integers(photograph.width - width + 1))
    top = int(rng.integers(photograph.height - height + 1))
    window = photograph.resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    noisy = np.asarray(window) + rng.normal(0, NOISE, (HEIGHT, WIDTH, 3))
    buffer = io.BytesIO()
    Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()


def write_files(items: list[Item], folder: Path) -> None:
    for item in items:
        path = folder / item.name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(item.read())


def our_batches(items: list[Item], folder: Path, options: argparse.Namespace) -> Iterator[Pairs]:
    classes = [f"{label:02}" for label in range(CLASSES)]
    convert(Source("benchmark", classes, {"train": items, "val": items[:CLASSES]}), folder)
    keep_freed_memory()  # as `fasticcl train` does; the peer's workers started before and are not touched
    shards = Shards(folder, "train")
    data = Data(dataset="benchmark", dir=folder)  # the defaults are those of the docstring
    plan = Plan(shards.index, shards.counts, data, batch_size=options.batch_size, seed=0)
    for batch in Loader(shards, plan, threads=options.workers).batches("interpolative"):
        assert isinstance(batch, Batch)
        yield batch.x_h, batch.y_h, batch.x_f, batch.y_t, batch.lam


def peer_batches(folder: Path, batch_size: int, workers: int) -> Iterator[Pairs]:
    """Yield what two zipped DataLoaders give, without end; each has so many workers."""
    dataset = ImageFolder(folder, peer_transform())
    # A small benchmark would drain the workers' queues at the end of every short epoch. Listing the
    # images many times makes the epoch as long as that of a real dataset and spares the peer this.
    dataset.samples = dataset.samples * LISTED
    targets = np.array([label for _, label in dataset.samples])
    weights = 1 / np.bincount(targets)[targets]
    balanced = WeightedRandomSampler(weights.tolist(), len(weights), replacement=True)
    common: dict[str, Any] = {
        "batch_size": batch_size,
        "num_workers": workers,
        "persistent_workers": True,
        "drop_last": True,
    }
    agnostic = DataLoader(dataset, shuffle=True, **common)
    aware = DataLoader(dataset, sampler=balanced, **common)
    while True:
        for (x_h, y_h), (x_t, y_t) in zip(agnostic, aware, strict=True):
            lam = torch.rand(())
            yield x_h, y_h, lam * x_h + (1 - lam) * x_t, y_t, lam


def peer_transform() -> transforms.Compose:
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def faster_peer(folder: Path, options: argparse.Namespace) -> tuple[Iterator[Pairs], dict[int, float]]:
    """Return the faster peer, and the pairs per second by workers per loader of all that were tried.

    Tried are as many workers as cores over both loaders together, and as many as cores for each.
    """
    peers: dict[int, Iterator[Pairs]] = {}
    trials: dict[int, float] = {}
    for workers in sorted({max(1, options.workers // 2), options.workers}):
        peers[workers] = peer_batches(folder, options.batch_size, workers)
        trials[workers] = pairs_per_second(peers[workers], options)
        time.sleep(SETTLE)
    return peers[max(trials, key=lambda workers: trials[workers])], trials


def in_turns(systems: Mapping[str, Iterator[Pairs]], options: argparse.Namespace) -> dict[str, list[float]]:
    """Measure every system once per repeat, in an order that turns round each time: drift hits all alike."""
    runs: dict[str, list[float]] = {name: [] for name in systems}
    for batches in systems.values():
        check(next(batches), options.batch_size)
    for repeat in range(options.repeats):
        for name in list(systems)[:: 1 if repeat % 2 == 0 else -1]:
            time.sleep(SETTLE)
            runs[name].append(pairs_per_second(systems[name], options))
    return runs


def pairs_per_second(batches: Iterator[Pairs], options: argparse.Namespace) -> float:
    for _ in range(WARMUP):
        touch(next(batches))
    done, elapsed, start = 0, 0.0, time.perf_counter()
    while elapsed < options.seconds:
        touch(next(batches))
        done += 1
        elapsed = time.perf_counter() - start
    return done * options.batch_size / elapsed


def touch(pairs: Pairs) -> None:
    """Read a number of every tensor, so that none can be left unmade."""
    for tensor in pairs:
        tensor[(0,) * tensor.ndim].item()


def check(pairs: Pairs, batch_size: int) -> None:
    """See that a system makes what the docstring says."""
    x_h, y_h, x_f, y_t, _ = pairs
    for images in (x_h, x_f):
        assert images.shape == (batch_size, 3, 224, 224)
        assert images.dtype == torch.float32
        assert images.min() > -2.2  # black and white, normalised
        assert images.max() < 2.7
    assert len(y_h) == len(y_t) == batch_size


def summary(values: list[float]) -> dict[str, Any]:
    return {
        "runs": [round(value, 3) for value in values],
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


def show(result: Mapping[str, Any]) -> None:
    rows = {**result["pairs_per_second"], "ratio": result["ratio"]}
    print(json.dumps({"machine": result["machine"], "images": result["images"]}, indent=1))
    for trial in result["peer_trials"]:
        print(f"peer with {trial['workers_per_loader']} workers per loader: {trial['pairs_per_second']:.1f}")
    for name, row in rows.items():
        spread = f"median {row['median']:8.2f}   min {row['min']:8.2f}   max {row['max']:8.2f}"
        print(f"{name:6} {spread}   runs {row['runs']}")
    print(result.get("note", "the machine was quiet"))


if __name__ == "__main__":
    main()
