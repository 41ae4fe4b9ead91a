"""Training steps per wait policy of the OpenMP threads, alone and beside other work.

    python benchmarks/threads.py [--only NAME ...] [--beside LOAD ...] [--repeats 5] [--json FILE]

    nothing      the training has the machine for itself
    2 loops      beside two Python processes that never wait
    2 trainings  beside two more trainings with the same policy

The step is that of the engine (ResNet-32, 128 pairs of 32×32, 100 classes, settings of CIFAR100-LT) on
synthetic batches. Each policy has processes of its own, because libgomp reads its environment variables
once. The policies are measured in turns, and the other processes sleep in between.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from _runs import alternating, busy_cores, format_spread, hardware, summarize, write_result

# Without OMP_WAIT_POLICY, libgomp spins 300,000 times before a thread sleeps, with PASSIVE not at all.
POLICIES: dict[str, dict[str, str]] = {
    # Written out, because fasticcl sets the policy of a process that has neither variable.
    "default, 300,000 spins": {"OMP_WAIT_POLICY": "", "GOMP_SPINCOUNT": "300000"},
    **{
        f"passive, {count:,} spins": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(count)}
        for count in (0, 1000, 3000, 10_000, 30_000)
    },
}
LOADS = ("nothing", "2 loops", "2 trainings")
OTHERS = 2
LOOP = "while True: pass"
WARMUP = 3  # steps
SETTLE_SECONDS = 0.5
LOAD_SECONDS = 0.5  # before each round, the load by other processes is measured for this time

Worker = subprocess.Popen[str]


def main() -> None:
    options = _parse()
    if options.serve:
        _serve(options.seconds)
        return
    trainings = 1 + OTHERS * ("2 trainings" in options.beside)
    with ExitStack() as stack:
        workers = {
            name: [stack.enter_context(_worker(name, options.seconds)) for _ in range(trainings)]
            for name in options.only
        }
        beside = {}
        for load in options.beside:
            beside[load] = _interleave(workers, load, options.repeats)
            _show(load, beside[load])
    result = {
        "benchmark": "threads",
        "policies": {name: POLICIES[name] for name in options.only},
        "seconds": options.seconds,
        "images_per_second_beside": beside,
        "machine": hardware(),
    }
    write_result(result, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training steps per wait policy of the OpenMP threads.")
    parser.add_argument("--only", nargs="+", choices=POLICIES, default=list(POLICIES), help="default: all")
    parser.add_argument("--beside", nargs="+", choices=LOADS, default=list(LOADS), help="default: all")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each policy (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a run (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--serve", action="store_true", help="for internal use")
    return parser.parse_args()


@contextmanager
def _worker(name: str, seconds: float) -> Iterator[Worker]:
    """Start a training with a policy. It measures once for each line of its standard input."""
    environment = {key: value for key, value in (os.environ | POLICIES[name]).items() if value}
    command = [sys.executable, __file__, "--serve", "--seconds", str(seconds)]
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                sys.exit(f"The process of {name!r} has failed.")
            yield process
        finally:
            process.kill()


def _interleave(workers: Mapping[str, list[Worker]], load: str, repeats: int) -> dict[str, dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in workers}
    busy: list[float] = []
    for repeat in range(repeats):
        busy.append(busy_cores(LOAD_SECONDS))
        with _loops(OTHERS if load == "2 loops" else 0):
            for name in alternating(list(workers), repeat):
                time.sleep(SETTLE_SECONDS)
                rates[name].append(_measure(workers[name] if load == "2 trainings" else workers[name][:1]))
    before = {"busy_cores_before": summarize(busy)}
    return {name: summarize(values) for name, values in rates.items()} | before


@contextmanager
def _loops(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _measure(trainings: list[Worker]) -> float:
    """Return the mean images per second of trainings that run at the same time."""
    for each in trainings:
        assert each.stdin is not None
        each.stdin.write("measure\n")
        each.stdin.flush()
    return statistics.mean(float(each.stdout.readline()) for each in trainings if each.stdout)


def _serve(seconds: float) -> None:
    """Measure images per second for each line of standard input. A pair counts as two images."""
    from step import CASES, pair_of_steps, synthetic  # imports torch, which reads the policy

    preset, encoder, side, size, classes, _ = CASES["resnet32"]
    batches = synthetic(size, side, classes)
    step, _ = pair_of_steps(preset, encoder, classes)
    for number in range(WARMUP):
        step(batches[number])
    print("ready", flush=True)
    for _ in sys.stdin:
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            step(batches[steps % len(batches)])
            steps += 1
        print(2 * size * steps / (time.perf_counter() - start), flush=True)


def _show(load: str, rates: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"beside {load}, images/s")
    for name, rate in rates.items():
        print(f"    {name:28} {format_spread(rate, 1)}", flush=True)


if __name__ == "__main__":
    main()
