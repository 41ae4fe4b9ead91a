"""Training steps per wait policy of the OpenMP threads, alone and beside busy processes.

    python benchmarks/threads.py [--only NAME ...] [--beside 0 2] [--repeats 5] [--seconds 4] [--json FILE]

The step is that of the engine (ResNet-32, 128 pairs of 32×32, 100 classes, settings of CIFAR100-LT) on
synthetic batches. Each policy has a process of its own, because libgomp reads its environment variables
once. The processes measure in turns and sleep in between. A busy process is a Python loop.
"""

import argparse
import os
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
    "default of libgomp": {"OMP_WAIT_POLICY": ""},
    "passive": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    **{
        f"passive, {count:,} spins": {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": str(count)}
        for count in (300, 1000, 3000, 10_000, 30_000)
    },
}
BUSY = "while True: pass"
WARMUP = 3  # steps
SETTLE_SECONDS = 0.5
LOAD_SECONDS = 0.5  # before each run, the load by other processes is measured for this time


def main() -> None:
    options = _parse()
    if options.serve:
        _serve(options.seconds)
        return
    with ExitStack() as stack:
        workers = {name: stack.enter_context(_worker(name, options.seconds)) for name in options.only}
        beside = {}
        for count in options.beside:
            beside[str(count)] = _interleave(workers, count, options.repeats)
            _show(count, beside[str(count)])
    result = {
        "benchmark": "threads",
        "policies": {name: POLICIES[name] for name in options.only},
        "seconds": options.seconds,
        "images_per_second_beside_busy_processes": beside,
        "machine": hardware(),
    }
    write_result(result, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training steps per wait policy of the OpenMP threads.")
    parser.add_argument("--only", nargs="+", choices=POLICIES, default=list(POLICIES), help="default: all")
    parser.add_argument("--beside", nargs="+", type=int, default=[0, 2], help="numbers of busy processes")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each policy (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4, help="length of a run (default %(default)s)")
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--serve", action="store_true", help="for internal use")
    return parser.parse_args()


@contextmanager
def _worker(name: str, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start a process with a policy. It measures once for each line of its standard input."""
    environment = {key: value for key, value in (os.environ | POLICIES[name]).items() if value}
    if not POLICIES[name].get("GOMP_SPINCOUNT"):
        environment.pop("GOMP_SPINCOUNT", None)
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


def _interleave(
    workers: Mapping[str, subprocess.Popen[str]], beside: int, repeats: int
) -> dict[str, dict[str, Any]]:
    rates: dict[str, list[float]] = {name: [] for name in workers}
    busy: list[float] = []
    for repeat in range(repeats):
        busy.append(busy_cores(LOAD_SECONDS))
        with _busy_processes(beside):
            for name in alternating(list(workers), repeat):
                time.sleep(SETTLE_SECONDS)
                rates[name].append(_measure(workers[name]))
    before = {"busy_cores_before": summarize(busy)}
    return {name: summarize(values) for name, values in rates.items()} | before


@contextmanager
def _busy_processes(count: int) -> Iterator[None]:
    processes = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _measure(worker: subprocess.Popen[str]) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    worker.stdin.write("measure\n")
    worker.stdin.flush()
    return float(worker.stdout.readline())


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


def _show(beside: int, rates: Mapping[str, Mapping[str, Any]]) -> None:
    print(f"beside {beside} busy processes, images/s")
    for name, rate in rates.items():
        print(f"    {name:28} {format_spread(rate, 1)}", flush=True)


if __name__ == "__main__":
    main()
