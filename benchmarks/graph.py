"""Processor time of each stage of the loader, the share of the DALI graph, and pairs per second.

    python benchmarks/graph.py [--images 600] [--batch-size 32] [--short-side N] [--seconds 1] [--repeats 7]
                               [--workers N] [--only STAGE ...] [--before CHECKOUT] [--json FILE]

It needs the extra ``demo`` and uses the images of `loader.py`. The graph of the interpolative phase is
built up stage by stage, and all stages are measured in every round:

    feed        only the inputs of the graph, from memory
    decode      plus decoding of the crops
    resize      plus resizing, cropping and flipping
    normalise   plus normalisation of both streams
    mix         plus mixing, which completes the graph, still fed with 16 repeated batches from memory
    loader      fasticcl's Loader: the same graph, fed by the plan and the shards
    jitter      the loader with colour jitter, of strength 0.4 as in the presets for photographs

The cost of a stage is the processor time that it adds, in microseconds per image (user and system time, all
threads). Other work on the machine affects it far less than wall-clock time. The Python code that feeds the
graph is also timed alone.

``--before`` measures the fasticcl of another checkout of the repository too. Both run in one process per
round, in an order that is reversed each time.
"""

import argparse
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import timeit
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from _runs import alternating, hardware, ratios, write_result
from isal.isal_zlib import crc32
from peers._photo_crops import write_jpegs

import fasticcl
from fasticcl.config import Data
from fasticcl.data.dali import graph
from fasticcl.data.dali.graph_inputs import GraphSpec, input_nodes
from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.shards.reader import Shards
from fasticcl.system.allocator import keep_freed_memory
from fasticcl.system.resources import available_cores

STAGES = ("feed", "decode", "resize", "normalise", "mix", "loader", "jitter")
JITTER = (0.4, 0.4, 0.4)
BATCHES = 16  # repeated from memory
WARMUP = 8  # batches, more than the prefetch queue holds
PREFETCH = 3  # as in the loader


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    options = parse()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        result = compare(options) if options.before else measured(options)
    result["machine"] = hardware() | {"load_average": round(load, 2)}
    print(json.dumps(result, indent=1))
    write_result(result, options.json)


def measured(options: argparse.Namespace) -> dict[str, Any]:
    """Return the result for the fasticcl of this process."""
    keep_freed_memory()  # as in `fasticcl train`
    warnings.filterwarnings("ignore", "The external source node")  # short graphs leave inputs unused
    with tempfile.TemporaryDirectory() as folder:
        shards = make_shards(options, Path(folder))
        data = Data(dataset="benchmark", dir=shards.folder.parent)
        plan = Plan(shards.index, shards.counts, data, batch_size=options.batch_size, seed=0)
        return {
            "benchmark": "graph",
            "settings": settings(options),
            "mean_bytes": round(float(shards.index["size"].mean())),
            **measure(stages(shards, plan, options), options),
            "python_us_per_image": python(shards, plan),
        }


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Return the pairs per second and the processor time of this checkout and of the one of --before."""
    checkouts = {"before": options.before, "after": Path(__file__).parents[1]}
    rounds: dict[str, list[dict[str, Any]]] = {name: [] for name in checkouts}
    for repeat in range(options.repeats):
        for name in alternating(list(checkouts), repeat):
            rounds[name].append(measure_checkout(checkouts[name], options))
    result: dict[str, Any] = {"benchmark": "graph", "settings": settings(options)}
    result["mean_bytes"] = rounds["after"][0]["mean_bytes"]
    for figure in ("pairs_per_second", "us_per_image"):
        result[figure] = {}
        for stage in options.only:
            values = {name: [each[figure][stage]["median"] for each in rounds[name]] for name in checkouts}
            result[figure][stage] = {name: summary(found) for name, found in values.items()}
            result[figure][stage]["after / before"] = summary(ratios(values["after"], values["before"]))
    shares = {name: [each["share_of_decode"] for each in rounds[name]] for name in checkouts}
    result["share_of_decode"] = {
        name: {stage: summary([each[stage]["median"] for each in found]) for stage in found[0]}
        for name, found in shares.items()
    }
    return result


def measure_checkout(checkout: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the result of one repeat in a process that imports the fasticcl of a checkout."""
    file = options.folder / "checkout.json"
    command = [sys.executable, __file__, "--repeats", "1", "--folder", options.folder, "--json", file]
    for option in ("images", "batch_size", "seconds", "workers"):
        command += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    command += ["--short-side", str(options.short_side)] if options.short_side else []
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    subprocess.run(
        [*command, "--only", *options.only], env=environment, stdout=subprocess.DEVNULL, check=True
    )
    return json.loads(file.read_text(encoding="utf-8"))


def settings(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(options).items() if name not in ("json", "folder", "before")}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Processor time of each stage of the loader.")
    parser.add_argument(
        "--images", type=int, default=600, help="minimum number of images (default %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, default=32, help="pairs per batch (default %(default)s)")
    parser.add_argument(
        "--short-side", type=int, help="convert to this short side in pixels (default: keep the bytes)"
    )
    parser.add_argument("--seconds", type=float, default=1, help="length of a run (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=7, help="runs of each stage (default %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=available_cores(), help="number of threads (default: one per core)"
    )
    parser.add_argument("--only", nargs="+", choices=STAGES, default=list(STAGES), help="default: all")
    parser.add_argument("--before", type=Path, help="checkout of the repository to compare with")
    parser.add_argument("--folder", type=Path, help="folder for the images (default: a temporary folder)")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def make_shards(options: argparse.Namespace, folder: Path) -> Shards:
    write_jpegs(options.folder / "files", options.images)
    fasticcl.convert("folder", options.folder / "files", folder / "shards", short_side=options.short_side)
    return Shards(folder / "shards", "train")


def stages(shards: Shards, plan: Plan, options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """Return a function that produces one batch, for each stage."""
    planned = [plan.batch("interpolative", 0, step % plan.steps_per_epoch) for step in range(BATCHES)]
    spec = GraphSpec.training(plan.data, "interpolative", shards)
    fed = [spec.values(shards, each) for each in planned]
    jittered = plan.data.model_copy(update={"color_jitter": JITTER})
    other = Plan(shards.index, shards.counts, jittered, batch_size=options.batch_size, seed=0)
    plans = {"loader": plan, "jitter": other}

    def run(stage: str) -> Callable[[], Any]:
        if stage not in plans:
            return constant(stage, fed, spec, plan, options)
        loader = Loader(shards, plans[stage], threads=options.workers, prefetch=PREFETCH)
        return loader.batches("interpolative").__next__

    return {stage: run(stage) for stage in STAGES if stage in options.only}


def constant(
    stage: str, fed: list[list[Any]], spec: GraphSpec, plan: Plan, options: argparse.Namespace
) -> Callable[[], Any]:
    """Return a function that produces one batch up to a stage, from inputs in memory."""

    def feed(iteration: int) -> list[Any]:
        return fed[iteration % len(fed)]

    build_options = PipelineOptions(plan.batch_size, options.workers, PREFETCH, gpu=None)
    if stage == "mix":
        return graph.build(feed, spec, build_options).run
    pipeline = GraphPipeline(build_options)
    with pipeline:
        streams, mixing = input_nodes(spec, feed, gpu=None)
        outputs = [*mixing, *(stream["label"] for stream in streams)]
        for stream in streams:
            image = stream["encoded"]
            if stage != "feed":
                image = graph.decode(stream, plan.data, None)
            if stage in ("resize", "normalise"):
                image = graph.resize(image, stream, spec, build_options)
            if stage == "normalise":
                image = graph.normalise(image, plan.data)
            outputs.append(image)
        pipeline.set_outputs(*outputs)
    pipeline.build()
    return pipeline.run


def measure(runs: Mapping[str, Callable[[], Any]], options: argparse.Namespace) -> dict[str, Any]:
    """Measure every stage once per round, in an order that is reversed each time."""
    costs: dict[str, list[float]] = {name: [] for name in runs}
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(options.repeats):
        for name in alternating(list(runs), repeat):
            cost, speed = cost_and_speed(runs[name], options)
            costs[name].append(cost)
            speeds[name].append(speed)
    added = {
        name: [after - before for before, after in zip(costs[previous], costs[name], strict=True)]
        for previous, name in itertools.pairwise(runs)
    }
    result: dict[str, Any] = {
        "us_per_image": {name: summary(values) for name, values in costs.items()},
        "us_per_image_added": {name: summary(values) for name, values in added.items()},
        "pairs_per_second": {name: summary(values) for name, values in speeds.items()},
    }
    if "decode" in runs:
        found = {
            name: ratios(speeds[name], speeds["decode"]) for name in ("loader", "jitter") if name in runs
        }
        result["share_of_decode"] = {name: summary(values) for name, values in found.items()}
    if {"mix", "loader"} <= set(runs):
        result["constant_plan_cost_over_loader_cost"] = summary(ratios(costs["mix"], costs["loader"]))
    return result


def cost_and_speed(run: Callable[[], Any], options: argparse.Namespace) -> tuple[float, float]:
    """Return the microseconds of processor time per image, and the pairs per second."""
    for _ in range(WARMUP):
        run()
    done, start, before = 0, time.perf_counter(), processor_time()
    while (elapsed := time.perf_counter() - start) < options.seconds:
        run()
        done += 1
    pairs = done * options.batch_size
    return (processor_time() - before) / (2 * pairs) * 1e6, pairs / elapsed


def processor_time() -> float:
    """Return the processor time of all threads of this process, in seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def python(shards: Shards, plan: Plan) -> dict[str, float]:
    """Return the microseconds per image of planning a batch, reading its bytes, and their checksums."""
    planned = plan.batch("interpolative", 0, 0)
    rows = np.concatenate([stream.rows for stream in planned.streams])
    images = shards.read(rows)
    return {
        "plan": alone(lambda: plan.batch("interpolative", 0, 0), len(rows)),
        "images": alone(lambda: shards.read(rows), len(rows)),
        "of which checksums": alone(lambda: checksums(images), len(rows)),
    }


def checksums(images: list[Any]) -> None:
    for image in images:
        crc32(image.data)


def alone(function: Callable[[], Any], images: int) -> float:
    """Return the microseconds per image of a function, the minimum of several tries."""
    seconds = min(timeit.repeat(function, number=20, repeat=10, timer=time.process_time)) / 20
    return round(seconds / images * 1e6, 2)


def summary(values: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), 3),
        "min": round(min(values), 3),
        "max": round(max(values), 3),
    }


if __name__ == "__main__":
    main()
