"""One step of every phase of every method preset with the settings of every dataset preset."""

import numpy as np
import pytest
import torch

from fasticcl.data.batch import synthetic_batch
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.preset_files import preset_names
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

CLASSES, BATCH, SIDE = 6, 4, 8
COUNTS = np.array([40, 20, 9, 5, 2, 1])
CPU = torch.device("cpu")


def configuration(dataset, method, encoder):
    return resolve(dataset, method=method, assignments=[f"method.encoder={encoder}", "engine.device=cpu"])


def first_epochs(config):
    """Return the first epoch of each phase and the epochs at which deferred parts begin."""
    phases = [config.phase(epoch) for epoch in range(config.optim.epochs)]
    starts = {phases.index(phase) for phase in phases} | {config.class_weight_epoch, config.resample_epoch}
    return sorted(starts - {None})


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def take_step(stage, epoch, side):
    """Take a step with random images and return the names of the tensors that it changes."""
    stage.begin_epoch(epoch)
    before = copy_of(stage.network)
    losses = learn(stage, synthetic_batch(stage.phase(epoch), BATCH, side, CLASSES, CPU))
    assert all(value.isfinite() for value in losses.values()), losses
    assert losses["loss"] > 0
    assert all(value.isfinite().all() for value in stage.network.parameters())
    return changed(before, stage.network)


def train_one_step_of_each_phase(config, side):
    torch.manual_seed(0)
    machine = choose_machine(config.engine)
    first = Representation(config, CLASSES, machine, COUNTS)
    for epoch in first_epochs(config):
        trained = take_step(first, epoch, side)
        assert {"classifier.weight", "encoder.conv.weight"} <= trained
    return first, machine


@pytest.mark.parametrize("dataset", preset_names())
@pytest.mark.parametrize("method", preset_names("method"))
def test_every_method_trains_with_the_settings_of_every_dataset(dataset, method):
    config = configuration(dataset, method, "resnet8")
    first, machine = train_one_step_of_each_phase(config, SIDE)
