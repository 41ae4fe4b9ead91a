"""One step of every phase of every method preset with the settings of every dataset preset."""

import numpy as np
import pytest
import torch

from fasticcl.data.batch import synthetic_batch
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import learn
from fasticcl.preset_files import preset_names
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine

CLASSES, BATCH, SIDE = 6, 4, 8
COUNTS = np.array([40, 20, 9, 5, 2, 1])
CPU = torch.device("cpu")


def configuration(dataset, method, encoder):
    settings = [f"method.encoder={encoder}", "engine.device=cpu"]
    if method == "oltr":  # attention needs images of 224 pixels, see tests/engine/stages/test_memory.py
        settings.append("rebalance.attention=false")
    return resolve(dataset, method=method, assignments=settings)


def first_epochs(config):
    """Return the first epoch of each phase and the epochs at which deferred parts begin."""
    if config.method.first_stage == "bbn":
        return [1]  # one of its tails has no gradient in the first epoch
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
    mixed = stage.config.data.mixing != "none"
    losses = learn(stage, synthetic_batch(stage.phase(epoch), BATCH, side, CLASSES, CPU, mixed))
    assert all(value.isfinite() for value in losses.values()), losses
    assert losses["loss"] > 0
    assert all(value.isfinite().all() for value in stage.network.parameters())
    return changed(before, stage.network)


def expected_changes(config, network):
    """Return the tensors of the network that a step of the second stage changes."""
    settings, state = config.rebalance, {*network.state_dict()}
    classifier = {name for name in state if name.startswith("classifier.")}
    encoder = {name for name, _ in network.encoder.named_parameters(prefix="encoder")}
    statistics = {name for name in state - encoder if name.startswith("encoder.")}
    base = {"classifier.base.weight", "classifier.base.bias"} if settings.class_scale else classifier
    changes = base if settings.classifier != "frozen" else set()
    changes = changes | ({"classifier.scale"} if settings.class_scale else set())
    changes = changes | (encoder if settings.encoder == "tuned" else set())
    return changes | (statistics if "train" in settings.batch_norm or settings.encoder == "tuned" else set())


def take_every_kind_of_step(config, side):
    torch.manual_seed(0)
    machine = choose_machine(config.engine)
    first = build_first_stage(config, CLASSES, machine, COUNTS)
    for epoch in first_epochs(config):
        trained = take_step(first, epoch, side)
        assert {name for name, _ in first.network.named_parameters()} - trained == set()
    if config.rebalance.readout != "none":
        features = [(torch.randn(12, first.network.classifier.weight.shape[1]), torch.arange(12) % CLASSES)]
        second = build_second_stage(config, first.network, machine, COUNTS, features)
        second.begin_epoch(0)
        images = torch.randn(BATCH, 3, side, side)
        assert second.network(images).logits.isfinite().all()
        assert not torch.equal(second.network(images).logits, second.teacher(images).logits)
    elif config.rebalance.epochs:
        second = build_second_stage(config, first.network, machine, COUNTS)
        assert take_step(second, 0, side) == expected_changes(config, second.network)


@pytest.mark.parametrize("dataset", preset_names())
@pytest.mark.parametrize("method", preset_names("method"))
def test_every_method_trains_with_the_settings_of_every_dataset(dataset, method):
    take_every_kind_of_step(configuration(dataset, method, "resnet8"), SIDE)


@pytest.mark.parametrize("method", ["iccl", "ldam-drw", "mislas", "ncm", "bbn", "oltr"])
def test_methods_train_encoders_for_large_images(method):
    take_every_kind_of_step(configuration("imagenet-lt", method, "resnet18"), 32)
