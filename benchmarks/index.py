"""Time and memory to open an index of 100 million images, and throughput of planning batches from it.

    python benchmarks/index.py [--rows 100000000] [--classes 1000000] [--repeats 5] [--seconds 1]
                               [--dir DIR] [--json FILE]

The index is a sparse file with a valid header. There are no images, and labels, heights and widths read as
zero. Images are therefore cropped with data.crop="pad", which ignores sizes. The default crop reads the
same data and computes more, which would only hide a slowdown. Each class has at least 2 images, and the
remaining images follow a power law of the class rank. A batch has 512 images per stream.

open    Each repeat uses a new process and a new file that is not in the page cache. Peaks are resident
        memory above that of the process after its imports.

        shards         Shards(folder, "train"): a manifest with names and counts of all classes and one shard
                       per 2,000 images (hard links to one tiny tar), and mapping the index
        plan           Plan(...): the alias table of γ' = 1 (γ = 0 needs none)
        rebalance      the first class-aware batch, γ' = 1
        interpolative  the first batch of both streams, γ = 0

        A second process measures the manifest alone: reading it, and converting the counts to an array.

draws   Images drawn per second (both streams counted) at 10⁵ to 10⁸ rows, in interleaved runs in one process:

        interpolative, rebalance    Plan.batch
        agnostic_rows, aware_rows   only the rows, without sizes, flips and colours

        fixed_classes    10,000 at every size, so only the number of rows differs
        growing_classes  one per 100 rows (1,000 to a million), so the class tables also grow

        Warm: every page of the index is in memory and mapped, as after some training. Cached: the first
        interpolative batch after `Shards` and `Plan`, with the index in the page cache. First touch: the
        same with a new file that is not in the page cache. Its holes read as zeros, without disk access. An
        index of up to 2²⁸ bytes is read when it is opened, to verify its checksum.
"""

import argparse
import json
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count, islice
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from _runs import hardware, write_result
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.plan import Plan
from fasticcl.files import file_sha256
from fasticcl.shards.manifest import Manifest, ShardInfo, SplitInfo
from fasticcl.shards.reader import INDEX, INDEX_DTYPE, Shards

BATCH = 512
SIZES = (10**5, 10**6, 10**7, 10**8)
CLASSES: Mapping[str, Callable[[int], int]] = {
    "fixed_classes": lambda _: 10_000,
    "growing_classes": lambda rows: rows // 100,
}
SMALLEST = 2  # images of the smallest classes
STEEPNESS = 1.2  # exponent of the power law
PER_SHARD = 2000
HASHED = 2**28  # bytes. The checksum of a smaller index is verified.
PAGE = 4096
WARMUP = 20  # batches
QUIET = 0.5  # load average above which other work disturbs the measurement
DATA = Data(dataset="benchmark", dir=Path("."), crop="pad")
SECONDS, MEBIBYTES, FLAT = 5, 2048, 0.8

Steps = Mapping[str, Mapping[str, float]]
"""Seconds of each step, and peak_mib above the memory after the imports."""


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    options = parse()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=options.dir) as folder:
        result = {
            "benchmark": "index",
            "settings": {
                **{name: getattr(options, name) for name in ("rows", "classes", "repeats", "seconds")},
                "batch_size": BATCH,
                "row_bytes": INDEX_DTYPE.itemsize,
            },
            "open": opening(options, Path(folder)),
            "draws": {title: drawing(options, Path(folder) / title, CLASSES[title]) for title in CLASSES},
        }
    result["machine"] = hardware() | {"load_average": round(load, 2)}
    if load > QUIET:
        result["note"] = f"the machine was not idle: load average {load:.2f} at the start"
    show(result)
    write_result(result, options.json)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Cost of opening and drawing from an index of many images.")
    parser.add_argument(
        "--rows", type=int, default=10**8, help="rows of the largest index (default %(default)s)"
    )
    parser.add_argument(
        "--classes", type=int, default=10**6, help="classes of the opened index (default %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="number of runs (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=1, help="length of a run (default %(default)s)")
    parser.add_argument("--dir", type=Path, help="folder for the files (default: the temporary folder)")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def long_tail(rows: int, classes: int) -> NDArray[np.int64]:
    """Return decreasing class counts [classes] with the sum ``rows``."""
    weights = np.arange(1, classes + 1) ** -STEEPNESS
    counts = SMALLEST + np.floor((rows - SMALLEST * classes) * weights / weights.sum()).astype(np.int64)
    counts[0] += rows - counts.sum()
    return counts


def sparse_index(path: Path, rows: int) -> None:
    """Write an index of zeros as a sparse file that is not in the page cache."""
    path.unlink(missing_ok=True)  # also drops its pages from the page cache
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": INDEX_DTYPE.descr, "fortran_order": False, "shape": (rows,)}
        )
        file.truncate(file.tell() + rows * INDEX_DTYPE.itemsize)


def plan_of(shards: Shards) -> Plan:
    return Plan(shards.index, shards.counts, DATA, batch_size=BATCH, seed=0)


# Opening.


def opening(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    counts = long_tail(options.rows, options.classes)
    dest = folder / "opened"
    write_dataset(dest, counts)
    manifest, whole = [], []
    for _ in range(options.repeats):
        manifest.append(in_fresh_process(read_manifest, dest))
        sparse_index(dest / "train" / INDEX, options.rows)
        whole.append(in_fresh_process(open_and_draw, dest))
    to_first_batch = [steps["rebalance"]["seconds_so_far"] for steps in whole]
    return {
        "largest_class": int(counts.max()),
        "smallest_class": int(counts.min()),
        "shards": -(-options.rows // PER_SHARD),
        "manifest_bytes": (dest / "manifest.json").stat().st_size,
        "manifest_alone": merged(manifest),
        "steps": merged(whole),
        "seconds_to_first_class_aware_batch": summary(to_first_batch),
        "peak_mib_to_first_class_aware_batch": summary([steps["rebalance"]["peak_mib"] for steps in whole]),
    }


def write_dataset(dest: Path, counts: NDArray[np.int64]) -> None:
    """Write a folder that `Shards` can open: manifest, empty shards and sparse index."""
    train = dest / "train"
    train.mkdir(parents=True)
    rows = int(counts.sum())
    shards = write_shards(train, rows)
    sparse_index(train / INDEX, rows)
    small = (train / INDEX).stat().st_size <= HASHED
    split = SplitInfo(
        class_counts=counts.tolist(),
        shards=shards,
        index_sha256=file_sha256(train / INDEX) if small else "",
    )
    Manifest(
        dataset="benchmark",
        classes=[f"family {number // 100:04} species {number:07}" for number in range(len(counts))],
        splits={"train": split},
        settings={},
        source_sha256="",
        reencoded={},
        quarantined=0,
        quarantine_sha256="",
    ).write(dest)


def write_shards(train: Path, rows: int) -> list[ShardInfo]:
    infos = []
    first = train / "shard-000000.tar"
    tarfile.open(first, "w").close()
    size, digest = first.stat().st_size, file_sha256(first)
    for number in range(-(-rows // PER_SHARD)):
        path = train / f"shard-{number:06}.tar"
        if number:
            path.hardlink_to(first)
        infos.append(ShardInfo(name=path.name, images=PER_SHARD, bytes=size, sha256=digest))
    return infos


def read_manifest(dest: Path) -> Steps:
    clock = Clock()
    manifest = Manifest.read(dest)
    assert manifest is not None
    clock.step("read")
    counts = np.array(manifest.splits["train"].class_counts, dtype=np.int64)
    clock.step("counts")
    assert len(counts) == len(manifest.classes)
    return clock.steps


def open_and_draw(dest: Path) -> Steps:
    clock = Clock()
    shards = Shards(dest, "train")
    clock.step("shards")
    plan = plan_of(shards)
    clock.step("plan")
    first = plan.batch("rebalance", 0, 0)
    clock.step("rebalance")
    both = plan.batch("interpolative", 0, 0)
    clock.step("interpolative")
    for drawn in (first.aware, both.agnostic, both.aware):
        assert drawn is not None
        assert len(drawn.rows) == BATCH
    return clock.steps


class Clock:
    """Records the duration and the peak resident memory of each step of a process."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._imported = peak_mib()
        self._start = self._last = time.perf_counter()

    def step(self, name: str) -> None:
        now = time.perf_counter()
        self.steps[name] = {
            "seconds": now - self._last,
            "seconds_so_far": now - self._start,
            "peak_mib": peak_mib() - self._imported,
        }
        self._last = time.perf_counter()


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB.

    It is read from VmHWM, because the peak in getrusage of a new process starts at that of its parent.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("the kernel does not report VmHWM")


def in_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(function, *arguments).result()


def merged(runs: Sequence[Steps]) -> dict[str, dict[str, Any]]:
    return {
        step: {name: summary([run[step][name] for run in runs]) for name in ("seconds", "peak_mib")}
        for step in runs[0]
    }


# Drawing.


def drawing(options: argparse.Namespace, folder: Path, classes: Callable[[int], int]) -> dict[str, Any]:
    sizes = [rows for rows in SIZES if rows <= options.rows]
    for rows in sizes:
        write_dataset(folder / str(rows), long_tail(rows, classes(rows)))
    first = {rows: first_batches(folder / str(rows), options.repeats) for rows in sizes}
    plans = {rows: warm_plan(folder / str(rows)) for rows in sizes}
    rates = interleave({rows: calls(plan) for rows, plan in plans.items()}, options)
    return {
        "classes": {rows: len(plan.classes["rebalance"].keep) for rows, plan in plans.items()},
        "warm_draws_per_second": {
            what: {rows: summary(rates[rows][what]) for rows in sizes} for what in rates[sizes[0]]
        },
        "slowest_over_fastest": {what: flatness(rates, what) for what in rates[sizes[0]]},
        "cached_seconds": {rows: summary(cached) for rows, (_, cached) in first.items()},
        "first_touch_seconds": {rows: summary(touched) for rows, (touched, _) in first.items()},
    }


def first_batches(dest: Path, repeats: int) -> tuple[list[float], list[float]]:
    """Return the seconds to the first batch, from new files and from files in the page cache."""
    index = dest / "train" / INDEX
    rows = len(np.load(index, mmap_mode="r"))
    touched, cached = [], []
    for _ in range(repeats):
        sparse_index(index, rows)
        touched.append(first_batch(dest))
        file_sha256(index)  # reads the whole file
        cached.append(first_batch(dest))
    return touched, cached


def first_batch(dest: Path) -> float:
    plan = plan_of(Shards(dest, "train"))
    start = time.perf_counter()
    plan.batch("interpolative", 0, 0)
    return time.perf_counter() - start


def warm_plan(dest: Path) -> Plan:
    plan = plan_of(Shards(dest, "train"))
    plan.index.view(np.uint8)[::PAGE].max()  # touches every page
    return plan


def calls(plan: Plan) -> dict[str, tuple[Callable[[int, int], Any], int, int]]:
    """Return a function of (epoch, step), its number of images, and the steps per epoch, by name."""
    named: dict[str, tuple[Callable[[int, int], Any], int]] = {
        "interpolative": (partial(plan.batch, "interpolative"), 2 * BATCH),
        "rebalance": (partial(plan.batch, "rebalance"), BATCH),
        "agnostic_rows": (partial(plan.agnostic_rows, "interpolative"), BATCH),
        "aware_rows": (partial(plan.aware_rows, "interpolative"), BATCH),
    }
    return {name: (draw, images, plan.steps_per_epoch) for name, (draw, images) in named.items()}


def interleave(
    systems: Mapping[int, Mapping[str, tuple[Callable[[int, int], Any], int, int]]],
    options: argparse.Namespace,
) -> dict[int, dict[str, list[float]]]:
    """Measure every size once per round, in an order that is reversed each time."""
    names = list(next(iter(systems.values())))
    rates: dict[int, dict[str, list[float]]] = {rows: {name: [] for name in names} for rows in systems}
    steps = {rows: all_steps(next(iter(called.values()))[2]) for rows, called in systems.items()}
    for repeat in range(options.repeats):
        for name in names:
            for rows in list(systems)[:: 1 if repeat % 2 == 0 else -1]:
                draw, images, _ = systems[rows][name]
                rates[rows][name].append(images * calls_per_second(draw, steps[rows], options.seconds))
    return rates


def all_steps(steps_per_epoch: int) -> Iterator[tuple[int, int]]:
    """Yield (epoch, step) in order, without end, so no batch is drawn twice."""
    return ((epoch, step) for epoch in count() for step in range(steps_per_epoch))


def calls_per_second(
    draw: Callable[[int, int], Any], steps: Iterator[tuple[int, int]], seconds: float
) -> float:
    for epoch, step in islice(steps, WARMUP):
        draw(epoch, step)
    done, elapsed, start = 0, 0.0, time.perf_counter()
    while elapsed < seconds:
        draw(*next(steps))
        done += 1
        elapsed = time.perf_counter() - start
    return done / elapsed


def flatness(rates: Mapping[int, Mapping[str, Sequence[float]]], what: str) -> dict[str, Any]:
    """Return the rate of the slowest size divided by that of the fastest, by medians and run by run."""
    runs = [rates[rows][what] for rows in rates]
    medians = [statistics.median(values) for values in runs]
    each = [min(values) / max(values) for values in zip(*runs, strict=True)]
    return {"of_medians": round(min(medians) / max(medians), 3), **summary(each)}


# Results.


def summary(values: Sequence[float]) -> dict[str, Any]:
    return {
        "runs": [rounded(value) for value in values],
        "median": rounded(statistics.median(values)),
        "min": rounded(min(values)),
        "max": rounded(max(values)),
    }


def rounded(value: float) -> float:
    return float(f"{value:.4g}")


def show(result: Mapping[str, Any]) -> None:
    print(json.dumps({name: result[name] for name in ("machine", "settings")}, indent=1))
    opening = result["open"]
    for title, steps in (("manifest alone", "manifest_alone"), ("open", "steps")):
        print(f"{title}: seconds, and peak in MiB above the imports")
        for name, row in opening[steps].items():
            seconds, peak = row["seconds"], row["peak_mib"]["median"]
            print(f"  {name:15} {line(seconds)} s   peak {peak:8.1f} MiB")
    print(f"to the first class-aware batch: target under {SECONDS} s and {MEBIBYTES} MiB")
    print(f"  {'seconds':15} {line(opening['seconds_to_first_class_aware_batch'])}")
    print(f"  {'peak MiB':15} {line(opening['peak_mib_to_first_class_aware_batch'])}")
    for title, draws in result["draws"].items():
        show_draws(title, draws)
    print(result.get("note", "the machine was idle"))


def show_draws(title: str, draws: Mapping[str, Any]) -> None:
    print(f"{title}: {draws['classes']}")
    for what, by_size in draws["warm_draws_per_second"].items():
        flat = draws["slowest_over_fastest"][what]
        print(f"  {what}: slowest size / fastest {flat['of_medians']:.3f}, target at least {FLAT}")
        for rows, row in by_size.items():
            print(f"    {rows:>11} rows {line(row)} images/s")
    for what in ("cached_seconds", "first_touch_seconds"):
        print(f"  first batch, {what.replace('_', ' ')}")
        for rows, row in draws[what].items():
            print(f"    {rows:>11} rows {line(row)} s")


def line(row: Mapping[str, Any]) -> str:
    return f"median {row['median']:10.5g}   min {row['min']:10.5g}   max {row['max']:10.5g}"


if __name__ == "__main__":
    main()
