"""Cost of losses, centroids, metrics and logging, relative to the bare forward and backward passes.

    python benchmarks/engine.py [--cases resnet32 resnet50] [--rounds 5] [--device cpu] [--json FILE]

Both use the same synthetic images and the same network. Rounds are interleaved, so drift of the machine
affects both equally.

    step    the engine's own step: both branches, the losses of equation 8, the centroids of equation 1,
            backward, SGD, the epoch statistics, and a line of metrics.jsonl every 20 steps
    bare    forward of x_h and of x_f as in the step, backward from the sum of their outputs, SGD

`rebalancing` is a step of the second stage with a frozen encoder, against one forward pass in evaluation
mode. The step is measured with `bn_mode` separate, split and concat.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fasticcl  # noqa: F401  before torch, because it sets the wait policy of OpenMP threads

# isort: split
import torch
from _runs import hardware, write_result
from rich.console import Console

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch, TrainingBatch
from fasticcl.engine.epoch_stats import EpochStats
from fasticcl.engine.loop import Loop
from fasticcl.engine.progress import Display
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

CASES = {  # encoder: preset, side, pairs, classes, steps a round
    "resnet32": ("cifar100-lt", 32, 128, 100, 3),
    "resnet50": ("imagenet-lt", 224, 16, 1000, 1),
}
LOG_EVERY = 20
CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}

Clock = Callable[[], float]
Runs = dict[str, list[float]]


def main() -> None:
    """Measure, print the result, and write it to the file of --json."""
    parser = argparse.ArgumentParser(description="The engine's step against its bare passes.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="processor: less affected by other work on the machine",
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    result = {
        "benchmark": "engine",
        "clock": options.clock,
        "cases": {encoder: measure_case(encoder, options) for encoder in options.cases},
        "machine": hardware(),
    }
    print(json.dumps(result, indent=1))
    write_result(result, options.json)


def measure_case(encoder: str, options: argparse.Namespace) -> dict[str, Any]:
    preset, side, pairs, classes, steps = CASES[encoder]
    torch.manual_seed(0)
    images = torch.randn(2 * pairs, 3, side, side).to(memory_format=torch.channels_last)
    x_h, x_f = images.chunk(2)
    y_h, y_t = torch.randint(classes, (2, pairs))
    lam = torch.rand(()).expand(pairs).contiguous()
    batch = Batch(*(each.to(options.device) for each in (x_h, y_h, x_f, y_t, lam)))
    result: dict[str, Any] = {"pairs": pairs, "side": side, "classes": classes}
    with tempfile.TemporaryDirectory() as folder:
        modes = {}
        for mode in ("separate", "split", "concat"):
            config = configuration(preset, encoder, options.device, Path(folder) / mode, mode)
            stage = Representation(config, classes, choose_machine(config.engine))
            stage.begin_epoch(0)
            modes[mode] = stepper(stage, batch, config)
        stage = Representation(config, classes, choose_machine(config.engine))
        stage.begin_epoch(0)
        runs = interleave({**modes, "bare": bare(stage, batch)}, steps, options.rounds, CLOCKS[options.clock])
        result["representation"] = report(runs, "bare")
        config = configuration(
            preset, encoder, options.device, Path(folder) / "second", "separate", frozen=True
        )
        rebalancing = Rebalancing(config, stage.network, stage.machine)
        rebalancing.begin_epoch(0)
        single = StreamBatch(batch.x_h, batch.y_h)
        runs = interleave(
            {"step": stepper(rebalancing, single, config), "bare": encoding(rebalancing, single)},
            steps,
            options.rounds,
            CLOCKS[options.clock],
        )
        result["rebalancing"] = report(runs, "bare")
    return result


def configuration(
    preset: str, encoder: str, device: str, project: Path, mode: str, frozen: bool = False
) -> Config:
    words = [f"method.encoder={encoder}", f"engine.device={device}", f"method.bn_mode={mode}"]
    words += [f"engine.log_every={LOG_EVERY}", "engine.save_every=1000000m"]
    words += [f"engine.project={str(project)!r}"] + ["rebalance.encoder=frozen"] * frozen
    return resolve(preset, assignments=words)


def stepper(stage: TrainingStage, batch: TrainingBatch, config: Config) -> Callable[[], None]:
    """Return the engine's step, including metrics and logging."""
    run = RunWriter(RunFolder.create(config))
    display = Display(Console(quiet=True), {"interpolative": 10**9})
    nothing: Any = argparse.Namespace(steps=10**9)
    loop = Loop(nothing, nothing, run, display)
    stats = EpochStats(run.ranks, torch.device(config.engine.device))

    def repeat() -> Iterator[TrainingBatch]:
        while True:
            yield batch

    batches = repeat()

    def step() -> None:
        loop.take_step(stage, batches, stats)
        if stats.steps % LOG_EVERY == 0:
            loop.log(stage, 0, stats.steps, stats)
        loop.clock.due()

    return step


def bare(stage: Representation, batch: Batch) -> Callable[[], None]:
    """Return a step of only the forward passes of both branches, the backward pass and SGD."""

    def step() -> None:
        with stage.machine.autocast():
            # If ω_u is 0, x_h is used only for the centroids and needs no gradient.
            with torch.set_grad_enabled(stage.method.uniform_weight > 0):
                h = stage.forward(batch.x_h)
            outputs = [stage.forward(batch.x_f), *[h] * h.logits.requires_grad]
        total = torch.stack([part.sum() for each in outputs for part in (each.logits, each.embedding)]).sum()
        stage.optimizer.zero_grad(set_to_none=True)
        (1e-9 * total).backward()
        stage.optimizer.step()

    return step


def encoding(stage: Rebalancing, batch: StreamBatch) -> Callable[[], None]:
    """Return a step of only the frozen encoder's forward pass."""

    @torch.no_grad()
    def step() -> None:
        with stage.machine.autocast():
            stage.features(batch.x)

    return step


def interleave(steps: dict[str, Callable[[], None]], count: int, rounds: int, clock: Clock) -> Runs:
    """Return the milliseconds per step of each round. The first round is a warm-up and is discarded."""
    runs: Runs = {name: [] for name in steps}
    for repeat in range(rounds + 1):
        for name in list(steps)[:: 1 if repeat % 2 else -1]:
            synchronize()
            began = clock()
            for _ in range(count):
                steps[name]()
            synchronize()
            runs[name].append(1000 * (clock() - began) / count)
    return {name: times[1:] for name, times in runs.items()}


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(runs: Runs, base: str) -> dict[str, Any]:
    """Return medians and spreads in milliseconds, and the ratios to the base, round by round."""
    ratios = {n: [a / b for a, b in zip(t, runs[base], strict=True)] for n, t in runs.items() if n != base}
    return {
        "milliseconds": {name: spread(times) for name, times in runs.items()},
        f"over_{base}": {name: spread(each) for name, each in ratios.items()},
    }


def spread(values: list[float]) -> dict[str, float]:
    """Return median, minimum and maximum."""
    return {
        name: round(f(values), 4) for name, f in (("median", statistics.median), ("min", min), ("max", max))
    }


if __name__ == "__main__":
    main()
