"""The rebalancing stage: equation 9, frozen and tuned encoders, and the teacher."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from fasticcl.config import Method
from fasticcl.data.batch import StreamBatch
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.method.batch_norm import SyncBatchNorm2d, replace_batch_norm
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine
from fasticcl.system.ranks import Ranks
from tests.support import oracle
from tests.support.processes import tensors_on_ranks

COUNTS = [100, 60, 30, 10, 2]
CLASSES = len(COUNTS)
SCALE = ("rebalance.encoder=frozen", "rebalance.class_scale=true")
LWS = (
    *SCALE,
    "rebalance.classifier=frozen",
    "rebalance.batch_norm=train",
    "rebalance.distillation_weight=0",
)
SHIFTED_AND_SMOOTHED = (  # as MiSLAS, but with the teacher of equation 9
    *SCALE,
    "rebalance.classifier_lr_factor=0.2",
    "rebalance.batch_norm=train",
    "rebalance.smoothing_head=0.4",
    "rebalance.smoothing_tail=0.1",
)
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def make_network(split_bn=False, classifier="linear"):
    torch.manual_seed(0)
    network = Network("resnet8", CLASSES, 8, split_bn, Method(classifier=classifier))
    network.train()(
        torch.randn(32, 3, 16, 16) * 2 + 1
    )  # running statistics that differ from the initial ones
    return network


def make_stage(*assignments, dataset="demo", method=None, network=None):
    config = resolve(
        dataset, method=method, assignments=["method.encoder=resnet8", "engine.device=cpu", *assignments]
    )
    stage = Rebalancing(config, network or make_network(), choose_machine(config.engine), np.array(COUNTS))
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


def step(stage, lr=0.1, seed=1):
    set_lr(stage.optimizer, lr)
    stage.optimizer.zero_grad()
    stage.losses(batch(seed))["loss"].backward()
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


@pytest.mark.parametrize("start", ["continue", "reinit", "frozen"])
@pytest.mark.parametrize("classifier", ["linear", "cosine", "causal"])
def test_scaled_logits_start_as_those_of_the_classifier(classifier, start):
    network = make_network(classifier=classifier)
    before = copy.deepcopy(network).eval()(batch().x).logits
    stage = make_stage(*SCALE, f"rebalance.classifier={start}", network=network)
    after = stage.network.eval()
    assert torch.equal(after(batch().x).logits, after.classifier.base(after.encoder(batch().x)))
    assert torch.equal(after(batch().x).logits, before) == (start != "reinit")
    assert torch.equal(stage.teacher(batch().x).logits, before)


@pytest.mark.parametrize("classifier", ["linear", "cosine", "causal"])
@pytest.mark.parametrize("batch_norm", ["train", "eval"])
def test_lws_trains_only_a_factor_for_each_class(classifier, batch_norm):
    network = make_network(classifier=classifier)
    stage = make_stage(*LWS, f"rebalance.batch_norm={batch_norm}", network=network)
    before, teacher = state(stage.network), state(stage.teacher)
    for number in range(3):
        step(stage, seed=number)
    statistics = {name for name in before if name.endswith(STATISTICS)}
    moved = statistics if batch_norm == "train" else set()
    assert changed(before, stage.network) == {"classifier.scale"} | moved
    assert len(statistics) == 3 * 7  # of ResNet-8
    assert stage.network.classifier.scale.ne(1).all()
    assert not changed(teacher, stage.teacher)


def test_a_step_of_lws_has_the_gradient_of_the_factors_and_their_weight_decay():
    stage = make_stage(*LWS, "rebalance.batch_norm=eval", "rebalance.weight_decay=0.25")
    z = np.float64(stage.teacher(batch().x).logits)
    p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    gradient = ((p - np.eye(CLASSES)[batch().y]) * z).mean(axis=0)
    step(stage, lr=0.5)
    expected = 1 - 0.5 * (gradient + 0.25)
    np.testing.assert_allclose(stage.network.classifier.scale.detach(), expected, rtol=1e-5)


@pytest.mark.parametrize("split_bn", [False, True])
def test_shifted_batch_norm_keeps_the_teacher_of_the_representation_stage(split_bn):
    network = make_network(split_bn)
    first, y = copy.deepcopy(network).eval(), batch().y.numpy()
    stage = make_stage(*SHIFTED_AND_SMOOTHED, "rebalance.distillation_weight=0.3", network=network)
    for number in range(3):
        step(stage, seed=number)
    student = copy.deepcopy(stage.network)  # batch norm is in training mode
    logits = student(batch().x).logits.detach().numpy()
    teacher = first(batch().x).logits.detach().numpy()
    epsilon = 0.1 + 0.3 * np.sin(np.pi * (np.array(COUNTS) - 2) / (2 * 98))
    log_p = np.float64(logits) - np.log(np.exp(np.float64(logits)).sum(axis=1, keepdims=True))
    smoothed = np.mean(
        [-(1 - epsilon[k]) * q[k] - epsilon[k] * q.mean() for q, k in zip(log_p, y, strict=True)]
    )
    expected = 0.7 * smoothed + 0.3 * oracle.rebalance(logits, teacher, y, 1, 10)
    losses = stage.losses(batch())
    assert losses["loss"].item() == pytest.approx(expected, rel=1e-5)
    assert losses["ce"].item() == pytest.approx(oracle.cross_entropy(logits, y), rel=1e-5)
    assert state(stage.teacher).keys() == {n for n in state(first) if not n.startswith("projection")}
    assert not changed(state(first), stage.teacher)


def test_only_batch_norm_of_a_frozen_encoder_is_in_training_mode():
    network = make_network()
    network.encoder = torch.nn.Sequential(network.encoder, torch.nn.Dropout())
    stage = make_stage(*LWS, network=network)
    stage.network.eval()  # as after an evaluation
    stage.begin_epoch(1)
    assert network.encoder[0].bn.training
    assert not network.encoder[1].training
    assert stage.network.classifier.training
    assert not any(module.training for module in stage.teacher.modules())


def test_without_smoothing_the_loss_needs_no_class_sizes():
    assert make_stage().smoothing is None
    assert make_stage("rebalance.smoothing_tail=0.1").smoothing is not None


GROUPS = {  # the trained tensors other than those of the classifier, and the settings
    "scale": ({"classifier.scale"}, SCALE),
    "new classifier and scale": ({"classifier.scale"}, (*SCALE, "rebalance.classifier=reinit")),
    "only the classifier": (set(), ("rebalance.encoder=frozen",)),
    "tuned encoder": ({"encoder.conv.weight"}, ("rebalance.encoder=tuned",)),
}


@pytest.mark.parametrize("name", GROUPS)
def test_the_classifier_has_its_own_learning_rate_in_every_epoch(name):
    others, settings = GROUPS[name]
    settings = (*settings, "rebalance.classifier_lr_factor=0.2", "rebalance.epochs=4", "optim.lr=0.5")
    stage = make_stage(*settings)
    step(stage)
    restored = make_stage(*settings)
    restored.load_state_dict(copy.deepcopy(stage.state_dict()))
    for epoch in range(4):
        restored.begin_epoch(epoch)
        rate = 0.05 * (1 + np.cos(np.pi * epoch / 4)) / 2
        rates = {
            id(value): group["lr"] for group in restored.optimizer.param_groups for value in group["params"]
        }
        named = dict(restored.network.named_parameters())
        found = {key: rates[id(value)] for key, value in named.items() if value.requires_grad}
        assert len(found) == len(rates)
        assert others <= found.keys()
        for key, value in found.items():
            is_slow = "classifier" in key and key != "classifier.scale"
            assert value == pytest.approx(0.2 * rate if is_slow else rate, rel=1e-12), key


@pytest.mark.parametrize("settings", [LWS, SHIFTED_AND_SMOOTHED], ids=["lws", "mislas"])
def test_a_restored_stage_continues_bit_identically(settings):
    stage, other = make_stage(*settings), make_stage(*settings)
    step(stage)
    other.load_state_dict(copy.deepcopy(stage.state_dict()))
    for each in (stage, other):
        step(each, seed=2)
    assert not changed(state(stage.network), other.network)
    assert not changed(state(stage.teacher), other.teacher)
    restored = Network.restore("resnet8", stage.network.state_dict()).eval()
    assert torch.equal(restored(batch().x).logits, stage.network.eval()(batch().x).logits)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ((*LWS, "rebalance.classifier_lr_factor=0.5"), "frozen has no learning rate"),
        (("rebalance.distillation_weight=1", "rebalance.smoothing_head=0.1"), "no cross-entropy to smooth"),
        (("rebalance.encoder=frozen", "rebalance.classifier=frozen"), "leaves nothing to train"),
    ],
)
def test_settings_without_effect_are_an_error(settings, message):
    with pytest.raises(UserError, match=message):
        make_stage(*settings)


def take_steps(ranks):
    """Train on this rank's part of three batches, without and with synchronised batch norm."""
    results = {}
    for sync, settings in ((False, LWS), (True, SHIFTED_AND_SMOOTHED)):
        config = resolve("demo", assignments=["engine.device=cpu", *settings])
        network = make_network()
        if sync:
            replace_batch_norm(network, SyncBatchNorm2d)
        machine = replace(choose_machine(config.engine, alone=True), ranks=ranks)
        stage = Rebalancing(config, network, machine, np.array(COUNTS))
        stage.begin_epoch(0)
        losses = []
        for number in range(3):
            whole, size = batch(number), 16 // ranks.world_size
            rows = slice(ranks.rank * size, (ranks.rank + 1) * size)
            losses.append(learn(stage, StreamBatch(whole.x[rows], whole.y[rows]))["loss"].detach())
            ranks.average_buffers(network)
        statistics = [network.encoder.bn.running_mean, network.encoder.bn.running_var]
        results |= {
            f"losses {sync}": torch.stack(losses),
            f"statistics {sync}": torch.cat(statistics),
            f"scale {sync}": network.classifier.scale.detach(),
        }
    return results


def test_two_ranks_have_equal_statistics_and_with_sync_bn_the_losses_of_one(tmp_path):
    one = take_steps(Ranks())
    first, second = tensors_on_ranks(tmp_path / "log", 2, take_steps)
    for sync in (False, True):
        assert torch.equal(first[f"statistics {sync}"], second[f"statistics {sync}"])
        assert torch.equal(first[f"scale {sync}"], second[f"scale {sync}"])
    mean = {name: (first[name] + second[name]) / 2 for name in one}
    for name in ("losses True", "statistics True", "scale True"):
        torch.testing.assert_close(mean[name], one[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mean["losses False"], one["losses False"], rtol=1e-4)
