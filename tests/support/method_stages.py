"""The trained stages of a method preset with small networks, without a loader."""

import numpy as np
import torch

from fasticcl.data.batch import synthetic_batch
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import learn
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

COUNTS = np.array([40, 20, 9, 5, 2, 1])
CLASSES, BATCH, SIDE = len(COUNTS), 4, 8


def short_config(method, *assignments):
    """Return the demo's configuration of a method, shortened to two epochs, with a small network."""
    settings = ["method.encoder=resnet8", "engine.device=cpu", *assignments]
    return resolve("demo", method=method, assignments=settings).shortened()


def trained_phases(config):
    """Yield the stages that take training steps with the epochs of each of their phases."""
    torch.manual_seed(0)
    machine = choose_machine(config.engine)
    first = build_first_stage(config, CLASSES, machine, COUNTS)
    seed = getattr(first, "seed_stage", None)
    for stage in [seed, first] if seed else [first]:
        phases = [stage.phase(epoch) for epoch in range(stage.epochs)]
        for phase in dict.fromkeys(phases):
            yield stage, [epoch for epoch, each in enumerate(phases) if each == phase]
    if config.rebalance.trained_epochs:
        features = [(torch.randn(12, first.network.classifier.weight.shape[1]), torch.arange(12) % CLASSES)]
        yield build_second_stage(config, first.network, machine, COUNTS, features), [0]


def losses_of_steps(config, stage, epochs, steps):
    """Take steps on the same synthetic batch in each of the epochs and yield their losses."""
    mixed = config.data.mixing != "none"
    batch = synthetic_batch(stage.phase(epochs[0]), BATCH, SIDE, CLASSES, torch.device("cpu"), mixed)
    for epoch in epochs:
        stage.begin_epoch(epoch)
        for _ in range(steps):
            yield {name: value.detach() for name, value in learn(stage, batch).items()}
