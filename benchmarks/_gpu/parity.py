"""Comparison of the device with the CPU: images, and losses and weights of a step."""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch

from _gpu.bench import BOTH, Bench, Figures, Row
from fasticcl.config import Data
from fasticcl.data.batch import TrainingBatch, tensors_of
from fasticcl.data.cache import CacheLocation
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Phase, Plan
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.representation import Representation
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import Machine

_PHASES: tuple[Phase, ...] = ("warmup", "interpolative", "rebalance")  # those of ICCL

Vectors = Mapping[str, torch.Tensor]


def graph(bench: Bench) -> list[Row]:
    """Compare images in grey levels from 0 to 255, and all other outputs bit by bit."""

    def compare(change: dict[str, Any], location: CacheLocation, phase: Phase) -> Figures:
        shards = Shards(bench.shards, "train")
        data = bench.data(bench.shards).model_copy(update=change)
        plan = Plan(shards.index, shards.counts, data, batch_size=min(32, bench.sizes.batch_size), seed=0)
        loaders = Loader(shards, plan), Loader(shards, plan, gpu=bench.gpu, cache_location=location)
        one, two = (next(loader.batches(phase)) for loader in loaders)
        return difference(one, two, data)

    kinds: dict[str, tuple[dict[str, Any], CacheLocation]] = {
        "plain": ({}, "off"),
        "jitter": ({"color_jitter": (0.4, 0.4, 0.4)}, "off"),
        "pad": ({"crop": "pad"}, "off"),
        "cached": ({}, "device"),
    }
    return [
        Row(f"{kind}, {phase}", 2, partial(compare, *settings, phase), "graph")
        for kind, settings in kinds.items()
        for phase in _PHASES
    ]


def difference(one: TrainingBatch, two: TrainingBatch, data: Data) -> Figures:
    std = torch.tensor(data.std)[:, None, None] * 255
    levels, same = [], True
    for name, value in tensors_of(one).items():
        other = getattr(two, name).cpu()
        if value.ndim == 4:
            levels.append(((value - other) * std).abs().flatten())
        else:
            same = same and torch.equal(value, other)
    every = torch.cat(levels)
    return {"mean_levels": float(every.mean()), "max_levels": float(every.max()), "rest_equal": same}


def step(bench: Bench) -> list[Row]:
    """Take one step of each phase from the same weights on the same images and compare the results."""
    cpu, device = Machine(torch.device("cpu"), bfloat16=False, mode="off"), bench.torch_device
    machines = {
        "float32": Machine(device, bfloat16=False, mode="off"),
        "bfloat16": Machine(device, bfloat16=True, mode="off"),
        "compiled": Machine(device, bfloat16=True, mode="on"),
        "compiled with losses": Machine(device, bfloat16=True, mode="step"),
    }
    settings = ("engine.precision=float32", "engine.compile=off")
    opened = cache(lambda: bench.workload(*bench.sizes.parity, *settings))

    @cache
    def reference(phase: Phase) -> tuple[TrainingBatch, Vectors, Vectors]:
        """Return a batch, initial weights, and the results of a step on the CPU."""
        batch = next(replace(opened(), machine=cpu).loader().batches(phase))
        torch.manual_seed(0)
        stage = Representation(opened().config, opened().num_classes, cpu)
        begun = {name: value.clone() for name, value in stage.network.state_dict().items()}
        return batch, begun, one_step(stage, batch)

    def compare(machine: Machine, phase: Phase) -> Figures:
        batch, begun, expected = reference(phase)
        stage = Representation(opened().config, opened().num_classes, machine)
        stage.network.load_state_dict(begun)
        tf32, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, False
        try:
            return compare_steps(expected, one_step(stage, moved(batch, device)))
        finally:
            torch.backends.cudnn.allow_tf32 = tf32

    return [
        Row(f"{name}, {phase}", 25 if machine.compiled else 5, partial(compare, machine, phase))
        for phase in BOTH
        for name, machine in machines.items()
        if not machine.compiled or (bench.gpu is not None and phase == "interpolative")  # minutes on a CPU
    ]


def moved(batch: TrainingBatch, device: torch.device) -> TrainingBatch:
    tensors: dict[str, Any] = {name: value.to(device) for name, value in tensors_of(batch).items()}
    return replace(batch, **tensors)


def one_step(stage: Representation, batch: TrainingBatch) -> Vectors:
    """Return the losses of a step, its gradient, and the weights and centroids after it, as vectors."""
    stage.begin_epoch(0)
    set_lr(stage.optimizer, 0.1)
    losses = stage.losses(batch)
    losses["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in stage.network.parameters() if p.grad is not None])
    stage.optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in stage.network.parameters()])
    vectors = {"gradient": gradient, "weights": weights, "centroids": stage.bank.centroids.flatten()}
    return {name: value.detach().cpu().double() for name, value in {**losses, **vectors}.items()}


def compare_steps(expected: Vectors, actual: Vectors) -> Figures:
    """Return the relative distance of each quantity from that of the CPU."""
    relative = {}
    for name, value in expected.items():
        relative[name] = float((actual[name] - value).norm() / value.norm().clamp(min=1e-12))
    return relative
