"""The rebalancing stage: equation 9, frozen and tuned encoders, and the teacher."""

import copy

import pytest
import torch

from fasticcl.data.batch import StreamBatch
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from tests.support import oracle

CLASSES = 5


def make_stage(*assignments, dataset="demo", method=None):
    torch.manual_seed(0)
    config = resolve(
        dataset, method=method, assignments=["method.encoder=resnet8", "engine.device=cpu", *assignments]
    )
    network = Network("resnet8", CLASSES, embedding_dim=8)
    network.train()(
        torch.randn(32, 3, 16, 16) * 2 + 1
    )  # running statistics that differ from the initial ones
    stage = Rebalancing(config, network, choose_machine(config.engine))
    stage.begin_epoch(0)
    return stage


def batch(seed=1):
    draw = torch.Generator().manual_seed(seed)
    return StreamBatch(
        torch.randn(16, 3, 16, 16, generator=draw), torch.randint(0, CLASSES, (16,), generator=draw)
    )


def state(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(before, module):
    return {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


def step(stage, lr=0.1):
    set_lr(stage.optimizer, lr)
    stage.optimizer.zero_grad()
    stage.losses(batch())["loss"].backward()
    stage.optimizer.step()


@pytest.mark.parametrize("encoder", ["frozen", "tuned"])
@pytest.mark.parametrize(("weight", "temperature"), [(0.5, 10.0), (0.2, 3.0), (0.0, 10.0), (1.0, 2.0)])
def test_the_loss_is_equation_9(encoder, weight, temperature):
    stage = make_stage(
        f"rebalance.encoder={encoder}",
        f"rebalance.distillation_weight={weight}",
        f"rebalance.distillation_temperature={temperature}",
    )
    with torch.no_grad():
        stage.network.classifier.weight.add_(0.3 * torch.randn_like(stage.network.classifier.weight))
        student = copy.deepcopy(stage.network)
        logits = student(batch().x).logits.numpy()
        teacher = copy.deepcopy(stage.teacher)(batch().x).logits.numpy()
    expected = oracle.rebalance(logits, teacher, batch().y.numpy(), weight, temperature)
    assert stage.losses(batch())["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_a_frozen_encoder_keeps_weights_and_statistics():
    stage = make_stage("rebalance.encoder=frozen")
    before, teacher = state(stage.network), state(stage.teacher)
    for _ in range(3):
        step(stage)
    assert changed(before, stage.network) == {"classifier.weight", "classifier.bias"}
    assert not changed(teacher, stage.teacher)


def test_a_tuned_encoder_changes_and_its_teacher_does_not():
    stage = make_stage("rebalance.encoder=tuned")
    before, teacher = state(stage.network), state(stage.teacher)
    assert not changed(teacher, stage.network)  # the teacher is the network of the representation stage
    step(stage)
    assert {"encoder.conv.weight", "encoder.bn.running_mean", "classifier.weight"} <= changed(
        before, stage.network
    )
    assert not changed(teacher, stage.teacher)


def test_the_projection_head_is_discarded():
    assert not [name for name in make_stage().network.state_dict() if name.startswith("projection")]


def test_crt_starts_from_a_fresh_classifier_and_no_teacher():
    stage = make_stage(method="crt")
    assert not torch.equal(stage.network.classifier.weight, stage.teacher.classifier.weight)
    assert stage.frozen
    with torch.no_grad():
        logits = stage.network(batch().x).logits
    expected = oracle.cross_entropy(logits.numpy(), batch().y.numpy())
    assert stage.losses(batch())["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_the_rate_starts_at_a_tenth_and_falls_on_a_cosine():
    stage = make_stage(dataset="cifar100-lt")
    assert stage.lr(0) == pytest.approx(0.01)  # section 4.3: initial learning rate of 0.01 on CIFAR
    assert stage.lr(5) == pytest.approx(0.005)
    assert 0 < stage.lr(9) < stage.lr(8)
    assert make_stage(dataset="inat2018").lr(0) == pytest.approx(0.02)


def test_weight_decay_defaults_to_that_of_the_representation_stage():
    assert make_stage().optimizer.param_groups[0]["weight_decay"] == 5e-4
    assert make_stage("rebalance.weight_decay=0").optimizer.param_groups[0]["weight_decay"] == 0
