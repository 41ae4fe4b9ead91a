"""What losses, centroids, metrics and logging add to the bare forward and backward pass.

    python benchmarks/engine.py [--cases resnet32 resnet50] [--rounds 5] [--device cpu] [--json FILE]

Both take the same images, made once, and the same network; one round after the other, so that a drift of
the machine's speed hits both alike.

    step    the engine's own step: both branches, the losses of equation 8, the centroids of equation 1,
            backward, SGD, the meter, and a line of metrics.jsonl every 20 steps
    bare    forward of x_h and of x_f as the step has them, backward from the sum of their outputs, SGD

`rebalancing` is the second stage with a frozen encoder: its step against one evaluation-mode forward.
Besides, `bn_mode` separate, split and concat are compared with one another.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from _runs import hardware, write_result
from rich.console import Console

from fasticcl.config import Config
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.engine.epoch_stats import EpochStats
from fasticcl.engine.loop import Loop
from fasticcl.engine.progress import Display
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.writer import RunWriter
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import Stage
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
    """Measure, print, and write the result if asked to."""
    parser = argparse.ArgumentParser(description="The engine's step against its bare passes.")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--rounds", type=int, default=5, help="of each (default %(default)s)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="processor: less moved by other work")
    parser.add_argument("--json", type=Path, help="file for the result")
    given = parser.parse_args()
    result = {
        "benchmark": "engine",
        "clock": given.clock,
        "cases": {encoder: case(encoder, given) for encoder in given.cases},
        "machine": hardware(),
    }
    print(json.dumps(result, indent=1))
    write_result(result, given.json)


def case(encoder: str, given: argparse.Namespace) -> dict[str, Any]:
    preset, side, pairs, classes, steps = CASES[encoder]
    torch.manual_seed(0)
    images = torch.randn(2 * pairs, 3, side, side).to(memory_format=torch.channels_last)
    x_h, x_f = images.chunk(2)
    y_h, y_t = torch.randint(classes, (2, pairs))
    lam = torch.rand(()).expand(pairs).contiguous()
    batch = Batch(*(each.to(given.device) for each in (x_h, y_h, x_f, y_t, lam)))
    found: dict[str, Any] = {"pairs": pairs, "side": side, "classes": classes}
    with tempfile.TemporaryDirectory() as folder:
        modes = {}
        for mode in ("separate", "split", "concat"):
            config = configuration(preset, encoder, given.device, Path(folder) / mode, mode)
            stage = Representation(config, classes, choose_machine(config.engine))
            stage.train_mode()
            modes[mode] = stepper(stage, batch, config)
        stage = Representation(config, classes, choose_machine(config.engine))
        stage.train_mode()
        runs = in_turns({**modes, "bare": bare(stage, batch)}, steps, given.rounds, CLOCKS[given.clock])
        found["representation"] = report(runs, "bare")
        config = configuration(
            preset, encoder, given.device, Path(folder) / "second", "separate", frozen=True
        )
        second = Rebalancing(config, stage.network, stage.machine)
        second.train_mode()
        one = StreamBatch(batch.x_h, batch.y_h)
        runs = in_turns(
            {"step": stepper(second, one, config), "bare": encoding(second, one)},
            steps,
            given.rounds,
            CLOCKS[given.clock],
        )
        found["rebalancing"] = report(runs, "bare")
    return found


def configuration(
    preset: str, encoder: str, device: str, project: Path, mode: str, frozen: bool = False
) -> Config:
    words = [f"method.encoder={encoder}", f"engine.device={device}", f"method.bn_mode={mode}"]
    words += [f"engine.log_every={LOG_EVERY}", "engine.save_every=1000000m"]
    words += [f"engine.project={str(project)!r}"] + ["rebalance.encoder=frozen"] * frozen
    return resolve(preset, assignments=words)


def stepper(stage: Stage, batch: Batch | StreamBatch, config: Config) -> Callable[[], None]:
    """Return the engine's step, metrics and logging included."""
    run = RunWriter(RunFolder.create(config))
    display = Display(Console(quiet=True), {"interpolative": 10**9})
    nothing: Any = argparse.Namespace(steps=10**9)
    loop = Loop(nothing, nothing, run, display)
    stats = EpochStats(run.ranks, torch.device(config.engine.device))

    def forever() -> Iterator[Batch | StreamBatch]:
        while True:
            yield batch

    batches = forever()

    def step() -> None:
        loop.take_step(stage, batches, stats)
        if stats.steps % LOG_EVERY == 0:
            loop.log(stage, 0, stats.steps, stats)
        loop.clock.due()

    return step


def bare(stage: Representation, batch: Batch) -> Callable[[], None]:
    """Return forward of both branches, backward and SGD, with nothing else."""

    def step() -> None:
        with stage.machine.autocast():
            # Where ω_u is 0, x_h serves the centroids only and has no gradient.
            with torch.set_grad_enabled(stage.method.uniform_weight > 0):
                h = stage.forward(batch.x_h)
            outputs = [stage.forward(batch.x_f), *[h] * h.logits.requires_grad]
        total = torch.stack([part.sum() for each in outputs for part in (each.logits, each.embedding)]).sum()
        stage.optimizer.zero_grad(set_to_none=True)
        (1e-9 * total).backward()
        stage.optimizer.step()

    return step


def encoding(stage: Rebalancing, batch: StreamBatch) -> Callable[[], None]:
    """Return the frozen encoder's forward pass, with nothing else."""

    @torch.no_grad()
    def step() -> None:
        with stage.machine.autocast():
            stage.features(batch.x)

    return step


def in_turns(steps: dict[str, Callable[[], None]], count: int, rounds: int, clock: Clock) -> Runs:
    """Return milliseconds a step, round by round; the first round warms up and is not kept."""
    runs: Runs = {name: [] for name in steps}
    for turn in range(rounds + 1):
        for name in list(steps)[:: 1 if turn % 2 else -1]:
            wait()
            began = clock()
            for _ in range(count):
                steps[name]()
            wait()
            runs[name].append(1000 * (clock() - began) / count)
    return {name: times[1:] for name, times in runs.items()}


def wait() -> None:
    """Wait for the device, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def report(runs: Runs, base: str) -> dict[str, Any]:
    """Return medians and spreads in milliseconds, and the ratio to the base round by round."""
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
