"""Comparison of the device with the CPU: images, and losses and weights of a step."""

from collections.abc import Mapping
from dataclasses import replace

import torch

from _gpu.bench import BOTH, Bench, Figures
from fasticcl.config import Data
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.cache import CacheLocation
from fasticcl.data.loader import Loader
from fasticcl.data.plan import PHASES, Plan
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.representation import Representation
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import Machine


def graph(bench: Bench) -> Figures:
    """Compare images in grey levels from 0 to 255, and all other outputs bit by bit."""
    shards = Shards(bench.shards, "train")
    base = Data(dataset="folder", dir=bench.shards, image_size=bench.sizes.side, eval_resize=0)
    kinds: dict[str, tuple[Data, CacheLocation]] = {
        "plain": (base, "off"),
        "jitter": (base.model_copy(update={"color_jitter": (0.4, 0.4, 0.4)}), "off"),
        "pad": (base.model_copy(update={"crop": "pad"}), "off"),
        "kept": (base, "device"),
    }
    figures: Figures = {}
    for kind, (data, location) in kinds.items():
        plan = Plan(shards.index, shards.counts, data, batch_size=min(32, bench.sizes.batch_size), seed=0)
        for phase in PHASES:
            loaders = Loader(shards, plan), Loader(shards, plan, gpu=bench.gpu, cache_location=location)
            one, two = (next(loader.batches(phase)) for loader in loaders)
            figures[f"{kind} {phase}"] = difference(one, two, data)
    return figures


def difference(one: Batch | StreamBatch, two: Batch | StreamBatch, data: Data) -> Figures:
    std = torch.tensor(data.std)[:, None, None] * 255
    levels, same = [], True
    for name, value in vars(one).items():
        other = getattr(two, name).cpu()
        if value.ndim == 4:
            levels.append(((value - other) * std).abs().flatten())
        else:
            same = same and torch.equal(value, other)
    every = torch.cat(levels)
    return {"mean_levels": float(every.mean()), "max_levels": float(every.max()), "rest_equal": same}


def step(bench: Bench) -> Figures:
    """Take one step of each phase from the same weights on the same images and compare the results."""
    workload = bench.workload(*bench.sizes.parity, "engine.precision=float32", "engine.compile=off")
    cpu, device = torch.device("cpu"), bench.torch_device
    machines = {
        "float32": Machine(device, bfloat16=False, mode="off"),
        "bfloat16": Machine(device, bfloat16=True, mode="off"),
        "compiled": Machine(device, bfloat16=True, mode="on"),
        "compiled with losses": Machine(device, bfloat16=True, mode="step"),
    }
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    figures: Figures = {}
    try:
        for phase in BOTH:
            loader = replace(workload, machine=Machine(cpu, bfloat16=False, mode="off")).loader()
            batch = next(loader.batches(phase))
            torch.manual_seed(0)
            reference = Representation(workload.config, workload.num_classes, Machine(cpu, False, "off"))
            begun = {name: value.clone() for name, value in reference.network.state_dict().items()}
            expected = one_step(reference, batch)
            for name, machine in machines.items():
                if machine.compiled and (bench.gpu is None or phase == "warmup"):
                    continue  # compiling takes minutes on a CPU
                stage = Representation(workload.config, workload.num_classes, machine)
                stage.network.load_state_dict(begun)
                figures[f"{name} {phase}"] = compare_steps(expected, one_step(stage, moved(batch, device)))
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    return figures


def moved(batch: Batch | StreamBatch, device: torch.device) -> Batch | StreamBatch:
    return type(batch)(**{name: value.to(device) for name, value in vars(batch).items()})


def one_step(stage: Representation, batch: Batch | StreamBatch) -> dict[str, torch.Tensor]:
    """Return the losses of a step, its gradient, and the weights and centroids after it, as vectors."""
    stage.train_mode()
    set_lr(stage.optimizer, 0.1)
    losses = stage.losses(batch)
    losses["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in stage.network.parameters() if p.grad is not None])
    stage.optimizer.step()
    weights = torch.cat([p.detach().flatten() for p in stage.network.parameters()])
    vectors = {"gradient": gradient, "weights": weights, "centroids": stage.bank.centroids.flatten()}
    return {name: value.detach().cpu().double() for name, value in {**losses, **vectors}.items()}


def compare_steps(expected: Mapping[str, torch.Tensor], actual: Mapping[str, torch.Tensor]) -> Figures:
    """Return the relative distance of each quantity from that of the CPU."""
    relative = {}
    for name, value in expected.items():
        relative[name] = float((actual[name] - value).norm() / value.norm().clamp(min=1e-12))
    return relative
