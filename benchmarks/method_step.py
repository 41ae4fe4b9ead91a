"""Cost of a training step of every method, relative to a step of cross-entropy (`ce`).

    python benchmarks/method_step.py [--only METHOD ...] [--encoder resnet32] [--repeats 5] [--steps 2]
                                     [--lock FILE] [--json FILE]

The settings are those of the method presets on CIFAR100-LT at ratio 100, with batches of 128 images of 32×32
and 100 classes, in float32 on the CPU. All steps use synthetic batches, so decoding is not part of the time.
Every step is measured in turns with a step of `ce`, and the ratios are computed run by run. Steps with equal
settings are measured once. In a phase with deferred parts, such as class weights, these are active.

For each phase of a method, the table contains:

    epochs         length of the phase
    decoded        images that the loader decodes for a step, divided by the batch size
    passed         images that the first layer of a network receives in a step, divided by the batch size
    FLOPs / ce     floating-point operations of the convolutions and matrix products, relative to `ce`
    step / ce      time of a step, relative to `ce`
    run / ce       time of the training steps of the whole run, relative to `ce`. The loader, evaluation and
                   readouts are not included.
"""

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fasticcl  # noqa: F401  before torch, because it sets the wait policy of OpenMP threads

# isort: split
import numpy as np
import torch
from _runs import alternating, busy_cores, format_spread, hardware, locked, ratios, summarize, write_result
from numpy.typing import NDArray
from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook
from torch.utils.flop_counter import FlopCounterMode

from fasticcl.config import Config
from fasticcl.data.batch import TrainingBatch, synthetic_batch
from fasticcl.data.plan import Phase
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.m2m import MajorToMinor, seed_config
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import StageName, TrainingStage, learn
from fasticcl.longtail import exponential_counts
from fasticcl.preset_files import preset_names
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

PRESET, CLASSES, LARGEST, IMBALANCE = "cifar100-lt", 100, 500, 100
REFERENCE = "ce"
COUNTED, COUNTED_BATCH = 8, 64  # steps and images in a batch for counting. Some methods draw in a step.
LOAD_SECONDS = 0.5  # before a round, the load by other processes is measured for this time
# Settings that do not change the cost of a step.
_SCHEDULE = {"name", "warmup_epochs", "cooldown_epochs", "class_weight_start", "seed_run"}
_SECOND_SCHEDULE = {"epochs", "gamma", "lr_factor"}


@dataclass(frozen=True)
class Part:
    """Epochs of a run whose steps cost the same."""

    stage: StageName
    phase: Phase
    epochs: int
    last_epoch: int
    """Last of these epochs, counted from 0 in the stage."""
    key: str
    """Settings of the step. Parts with the same key share a measurement."""


class Step:
    """A training step of a part of a method, on the same synthetic batch each time.

    Args:
        config: configuration of the method.
        part: the part.
    """

    def __init__(self, config: Config, part: Part) -> None:
        self.stage = build_stage(config, part)
        self.stage.begin_epoch(part.last_epoch)
        images, passed, flops = self._count(_batch(config, part, COUNTED_BATCH))
        self.decoded, self.passed, self.flops = (value / COUNTED_BATCH for value in (images, passed, flops))
        self.batch = _batch(config, part, config.optim.batch_size)
        self.seconds(1)  # warm-up

    def _count(self, batch: TrainingBatch) -> tuple[float, float, float]:
        """Return images decoded for a batch, images through a network and FLOPs of a step."""
        with counted_images() as passed, FlopCounterMode(display=False) as counter:
            for _ in range(COUNTED):
                learn(self.stage, batch)
        return batch.images, sum(passed) / COUNTED, counter.get_total_flops() / COUNTED

    def seconds(self, steps: int) -> float:
        """Take steps and return the seconds of one."""
        began = time.perf_counter()
        for _ in range(steps):
            learn(self.stage, self.batch)
        return (time.perf_counter() - began) / steps


def main() -> None:
    options = _parse()
    names = dict.fromkeys([REFERENCE, *options.only])
    configs = {name: configuration(name, options.encoder) for name in names}
    parts = {name: parts_of(config) for name, config in configs.items()}
    reference, *_ = parts[REFERENCE]
    first = {part.key: (name, part) for name in reversed(configs) for part in parts[name]}
    steps = {key: Step(configs[name], part) for key, (name, part) in first.items()}
    measured = _measure(Step(configs[REFERENCE], reference), steps, options)
    result = {
        "benchmark": "method_step",
        "machine": hardware(),
        "threads": torch.get_num_threads(),
        "preset": PRESET,
        "encoder": options.encoder,
        "batch_size": configs[REFERENCE].optim.batch_size,
        "steps": options.steps,
        "reference_milliseconds": summarize([1000 * value for value in measured["reference"]]),
        "busy_cores_before": summarize(measured["busy"]),
        "methods": {name: _costs(parts[name], steps, measured, reference) for name in configs},
    }
    _show(result)
    write_result(result, options.json)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    methods = preset_names("method")
    parser.add_argument("--only", nargs="+", choices=methods, default=methods, metavar="METHOD")
    parser.add_argument("--encoder", default="resnet32", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=5, help="number of rounds (default %(default)s)")
    parser.add_argument("--steps", type=int, default=2, help="steps of a measurement (default %(default)s)")
    parser.add_argument("--lock", type=Path, help="file to lock during each round")
    parser.add_argument("--json", type=Path, help="file for the result")
    return parser.parse_args()


def configuration(method: str, encoder: str) -> Config:
    """Return the configuration of a method on the CPU in float32."""
    settings = [f"method.encoder={encoder}", "engine.device=cpu", "engine.precision=float32"]
    return resolve(PRESET, method=method, assignments=settings)


def parts_of(config: Config) -> list[Part]:
    """Return the trained parts of a run: the seed stage, the phases of the first stage, the second stage."""
    parts = []
    if epochs := config.seed_epochs:
        seed, *_ = parts_of(seed_config(config))
        parts.append(replace(seed, stage="seed", epochs=epochs))
    method = config.method.model_dump(mode="json", exclude=_SCHEDULE)
    settings = json.dumps([method, config.data.mixing == "none"])
    phases = [config.phase(epoch) for epoch in range(config.optim.epochs)]
    for phase in dict.fromkeys(phases):
        last = max(epoch for epoch, each in enumerate(phases) if each == phase)
        parts.append(Part("representation", phase, phases.count(phase), last, f"{phase} {settings}"))
    if epochs := config.rebalance.trained_epochs:
        second = config.rebalance.model_dump(mode="json", exclude=_SECOND_SCHEDULE)
        network = config.method.model_dump(include={"classifier", "first_stage"})
        parts.append(
            Part("rebalancing", "rebalance", epochs, epochs - 1, json.dumps(["rebalance", second, network]))
        )
    return parts


def counts() -> NDArray[np.int64]:
    """Return the training images per class of CIFAR100-LT."""
    return exponential_counts(LARGEST, CLASSES, IMBALANCE)


def build_stage(config: Config, part: Part) -> TrainingStage:
    """Return the stage of a part with new weights."""
    torch.manual_seed(0)
    machine = choose_machine(config.engine)
    config = seed_config(config) if part.stage == "seed" else config
    first = build_first_stage(config, CLASSES, machine, counts())
    if isinstance(first, MajorToMinor):
        first.use_seed_network(first.seed_network)
    if part.stage != "rebalancing":
        return first
    features = torch.randn(CLASSES, len(first.network.classifier.weight[0]))
    labeled = [(features, torch.arange(CLASSES))]
    second = build_second_stage(config, first.network, machine, counts(), labeled)
    assert isinstance(second, TrainingStage)
    return second


def _batch(config: Config, part: Part, size: int) -> TrainingBatch:
    side, mixed = config.data.image_size, config.data.mixing != "none"
    return synthetic_batch(part.phase, size, side, CLASSES, torch.device("cpu"), mixed)


@contextmanager
def counted_images() -> Iterator[list[int]]:
    """Count the images that enter a network: those that a convolution with three input channels receives."""
    passed: list[int] = []

    def count(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, nn.Conv2d) and module.in_channels == 3:
            passed.append(len(inputs[0]))

    handle = register_module_forward_pre_hook(count)
    try:
        yield passed
    finally:
        handle.remove()


def _measure(reference: Step, steps: dict[str, Step], options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of the reference, and by key the ratios to it, of every round."""
    measured: dict[str, Any] = {"busy": [], "reference": [], "ratios": {key: [] for key in steps}}
    for repeat in range(options.repeats):
        with locked(options.lock):
            measured["busy"].append(busy_cores(LOAD_SECONDS))
            for key in alternating(list(steps), repeat):
                pair = {"ce": reference, "other": steps[key]}
                seconds = {name: pair[name].seconds(options.steps) for name in alternating([*pair], repeat)}
                measured["reference"].append(seconds["ce"])
                measured["ratios"][key] += ratios([seconds["other"]], [seconds["ce"]])
    return measured


def _costs(
    parts: list[Part], steps: dict[str, Step], measured: dict[str, Any], reference: Part
) -> dict[str, Any]:
    """Return the cost of each part of a method and of its whole run."""
    rounds = zip(*(measured["ratios"][part.key] for part in parts), strict=True)
    runs = [sum(part.epochs * ratio for part, ratio in zip(parts, each, strict=True)) for each in rounds]
    return {
        "run_divided_by_ce": summarize([run / reference.epochs for run in runs]),
        "parts": [
            {
                "stage": part.stage,
                "phase": part.phase,
                "epochs": part.epochs,
                "decoded": round(steps[part.key].decoded, 3),
                "passed": round(steps[part.key].passed, 3),
                "flops_divided_by_ce": round(steps[part.key].flops / steps[reference.key].flops, 3),
                "step_divided_by_ce": summarize(measured["ratios"][part.key]),
            }
            for part in parts
        ],
    }


def _show(result: dict[str, Any]) -> None:
    """Print the table in Markdown. Methods with the same costs share a row."""
    print(f"ce: {format_spread(result['reference_milliseconds'], 0)} ms per step of {result['encoder']}")
    print("| method | phase | epochs | decoded | passed | FLOPs / ce | step / ce | run / ce |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    same: dict[str, list[str]] = {}
    for name, costs in result["methods"].items():
        same.setdefault(json.dumps(costs), []).append(name)
    for costs, names in same.items():
        rows = json.loads(costs)
        first = [", ".join(names), format_spread(rows["run_divided_by_ce"], 2)]
        for part in rows["parts"]:
            numbers = [f"{part[name]:.2f}" for name in ("decoded", "passed", "flops_divided_by_ce")]
            step = format_spread(part["step_divided_by_ce"], 2)
            name = "seed" if part["stage"] == "seed" else part["phase"]
            cells = [first[0], name, str(part["epochs"]), *numbers, step, first[1]]
            print(f"| {' | '.join(cells)} |")
            first = ["", ""]


if __name__ == "__main__":
    main()
