"""The stage with a memory: initial centroids, steps, attention, ranks, stops, and other runs continued."""

import copy
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.batch import StreamBatch
from fasticcl.data.evaluation_loader import evaluation_batches
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.memory import MemoryRebalancing
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import Stopped, UserError
from fasticcl.method.batch_norm import SyncBatchNorm2d, replace_batch_norm
from fasticcl.method.memory import centroid_loss
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import choose_machine
from fasticcl.system.ranks import Ranks
from tests.support import oracle
from tests.support.processes import tensors_on_ranks
from tests.support.small_runs import TINY_STEPS, differences, record_steps, resume, train_tiny

CLASSES, SIDE = 5, 16
TWO_EPOCHS = {"rebalance.epochs": 2}


def make_network(encoder="resnet8"):
    torch.manual_seed(0)
    return Network(encoder, CLASSES)


def features():
    """The features of six images. The class 3 has none."""
    draw = torch.Generator().manual_seed(1)
    return [
        (torch.randn(4, 64, generator=draw), torch.tensor([0, 1, 1, 4])),
        (torch.randn(2, 64, generator=draw), torch.tensor([2, 1])),
    ]


def make_stage(*assignments, network=None, given=None, machine=None):
    settings = ["method.encoder=resnet8", "engine.device=cpu", *assignments]
    config = resolve("demo", method="oltr", assignments=settings)
    machine = machine or choose_machine(config.engine)
    stage = MemoryRebalancing(config, network or make_network(), machine, features=given or features())
    stage.begin_epoch(0)
    return stage


def batch(seed=1, size=8, side=SIDE):
    draw = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, side, side, generator=draw)
    return StreamBatch(images, torch.randint(0, CLASSES, (size,), generator=draw))


def copy_of(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def test_the_memory_starts_from_the_first_stage():
    network = make_network()
    before = copy.deepcopy(network).eval()
    stage = make_stage(network=network)
    memory = stage.network.classifier
    assert torch.equal(memory.hallucinator.weight, before.classifier.weight)
    assert torch.equal(memory.hallucinator.bias, before.classifier.bias)
    one, other = (v for v, _ in features())
    expected = torch.stack([one[0], (one[1] + one[2] + other[1]) / 3, other[0], torch.zeros(64), one[3]])
    torch.testing.assert_close(memory.centroids.detach(), expected)
    assert torch.equal(stage.teacher(batch().x).logits, before(batch().x).logits)
    assert torch.equal(make_stage().network.classifier.weight, memory.weight)
    assert not torch.equal(make_stage("engine.seed=1").network.classifier.weight, memory.weight)


def test_centroids_are_computed_only_if_the_first_epoch_begins_without_them():
    stage = make_stage()
    start = stage.network.classifier.centroids.detach().clone()
    learn(stage, batch())
    restored = make_stage(given=[(torch.ones(1, 64), torch.tensor([0]))])
    restored.load_state_dict(copy.deepcopy(stage.state_dict()))
    for epoch in (0, 1):
        restored.begin_epoch(epoch)
        assert torch.equal(restored.network.classifier.centroids, stage.network.classifier.centroids)
    assert not torch.equal(restored.network.classifier.centroids, start)


def test_centroids_are_computed_in_evaluation_mode():
    network, modes = make_network(), []

    def recorded():
        modes.extend(module.training for module in network.modules())
        yield from features()

    stage = make_stage(network=network, given=recorded())
    assert modes
    assert not any(modes)
    assert all(module.training for module in stage.network.modules())


def test_the_loss_is_cross_entropy_and_the_weighted_centroid_loss():
    stage = make_stage("rebalance.centroid_loss_weight=0.5")
    given, network = batch(), copy.deepcopy(stage.network)
    v = network.encoder(given.x)
    ce = oracle.cross_entropy(network.classifier(v).detach().numpy(), given.y.numpy())
    centroid = centroid_loss(v, network.classifier.centroids, given.y, 0.5).item()
    losses = stage.losses(given)
    assert losses["ce"].item() == pytest.approx(ce, rel=1e-5)
    assert losses["centroid"].item() == pytest.approx(centroid, rel=1e-5)
    assert losses["loss"].item() == pytest.approx(ce + centroid, rel=1e-5)


def test_encoder_classifier_and_centroids_have_their_own_rates_and_weight_decay():
    stage = make_stage("rebalance.weight_decay=0.3", "optim.lr=0.2", "rebalance.epochs=2")
    for epoch, rate in ((0, 0.02), (1, 0.01)):
        stage.begin_epoch(epoch)
        groups = {id(value): group for group in stage.optimizer.param_groups for value in group["params"]}
        for name, value in stage.network.named_parameters():
            group = groups.pop(id(value))
            factor = 10 if "classifier" in name and "centroids" not in name else 1
            assert group["lr"] == pytest.approx(factor * rate), name
            assert group["weight_decay"] == (5e-4 if "centroids" in name else 0.3)
        assert not groups


def test_a_step_moves_centroids_towards_features_also_without_the_centroid_loss():
    stage = make_stage("rebalance.centroid_loss_weight=0")
    given, centroids = batch(), stage.network.classifier.centroids
    before, v = centroids.detach().clone(), copy.deepcopy(stage.network).encoder(given.x).detach()
    set_lr(stage.optimizer, 0.5)
    learn(stage, given)
    for k in range(CLASSES):
        members = v[given.y == k]
        slope = (before[k] - members).sum(dim=0) / (1 + len(members)) / len(v) + 5e-4 * before[k]
        torch.testing.assert_close(centroids[k].detach(), before[k] - 0.5 * slope)


def test_attention_is_trained_and_saved_and_the_teacher_has_none():
    network = make_network("resnet18")
    before = copy.deepcopy(network).eval()
    given = [(torch.randn(CLASSES, 512), torch.arange(CLASSES))]
    config = resolve("imagenet-lt", method="oltr", assignments=["engine.device=cpu"])
    stage = MemoryRebalancing(config, network, choose_machine(config.engine), features=given)
    images = batch(size=2, side=224)
    with torch.no_grad():
        torch.testing.assert_close(stage.network.eval().encoder(images.x), before.encoder(images.x))
    stage.begin_epoch(0)
    start = copy_of(stage.network.encoder.attention)
    for _ in range(2):
        losses = learn(stage, images)
    assert all(value.isfinite() for value in losses.values())
    moved = {
        n for n, value in stage.network.encoder.attention.state_dict().items() if not value.equal(start[n])
    }
    assert moved >= start.keys() - {"phi.bias"}  # the softmax removes it, see test_attention.py
    teacher = Network.restore("resnet18", stage.teacher.state_dict()).eval()
    student = Network.restore("resnet18", stage.network.state_dict()).eval()
    with torch.no_grad():
        for one, other in ((teacher, before), (student, stage.network.eval())):
            torch.testing.assert_close(one(images.x).logits, other(images.x).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("assignments", "message"),
    [
        (["rebalance.encoder=frozen"], r"classifier=memory requires rebalance\.encoder=tuned\.$"),
        (
            ["rebalance.classifier=continue", "rebalance.attention=true"],
            r"attention requires .*=memory\. Use --method oltr\.$",
        ),
        (["rebalance.attention=true"], r"data\.image_size is 16\. Set rebalance\.attention=false\.$"),
        (["rebalance.class_scale=true"], r"class_scale .* require rebalance\.encoder=frozen\.$"),
    ],
)
def test_impossible_combinations_are_one_sentence(assignments, message):
    with pytest.raises(UserError, match=message):
        make_stage(*assignments)


def test_a_network_that_does_not_fit_is_refused_before_training(tiny_shards, tmp_path):
    with pytest.raises(
        UserError, match=r"requires a linear classifier .* Train a run with method\.classifier=lin"
    ):
        train_tiny(tiny_shards, tmp_path, {"method.classifier": "cosine"}, method="oltr")
    settings = {"rebalance.attention": True, "data.image_size": 224}
    with pytest.raises(UserError, match=r"this one has 56×56"):
        train_tiny(tiny_shards, tmp_path, settings, method="oltr")
    assert not [*tmp_path.iterdir()]


def repelled(ranks):
    """Return the centroid loss and its gradient for the centroids, averaged over the ranks.

    The mean distance to the other centroids is below the margin of 10, but not in the last four samples.
    """
    v = torch.randn(8, 64, generator=torch.Generator().manual_seed(3))
    v = v * torch.tensor([0.1] * 4 + [0.5] * 4)[:, None]
    centroids, size = torch.zeros(CLASSES, 64, requires_grad=True), 8 // ranks.world_size
    rows = slice(ranks.rank * size, (ranks.rank + 1) * size)
    loss = centroid_loss(v[rows], centroids, batch().y[rows], 1.0, ranks)
    loss.backward()
    return {
        "loss": ranks.all_reduce(loss.detach()) / ranks.world_size,
        "gradient": ranks.all_reduce(centroids.grad) / ranks.world_size,
    }


def take_steps(ranks):
    """Train on this rank's part of the features and of three batches, with synchronised batch norm."""
    network = replace_batch_norm(make_network(), SyncBatchNorm2d)
    given = [(v[ranks.rank :: ranks.world_size], y[ranks.rank :: ranks.world_size]) for v, y in features()]
    config = resolve("demo", method="oltr", assignments=["engine.device=cpu"])
    machine = replace(choose_machine(config.engine, alone=True), ranks=ranks)
    stage = make_stage(network=network, given=given, machine=machine)
    start, losses = stage.network.classifier.centroids.detach().clone(), []
    set_lr(stage.optimizer, 0.1)
    for number in range(3):
        whole, size = batch(number), 8 // ranks.world_size
        rows = slice(ranks.rank * size, (ranks.rank + 1) * size)
        parts = learn(stage, StreamBatch(whole.x[rows], whole.y[rows]))
        losses.append(torch.stack([*parts.values()]).detach())
        ranks.average_buffers(network)
    centroids = stage.network.classifier.centroids.detach()
    results = {"start": start, "losses": torch.stack(losses), "centroids": centroids}
    return results | repelled(ranks)


def test_two_ranks_have_equal_centroids_and_the_losses_of_one(tmp_path):
    one = take_steps(Ranks())
    first, second = tensors_on_ranks(tmp_path / "log", 2, take_steps)
    for name in ("start", "centroids", "loss", "gradient"):
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], one[name], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one["centroids"], one["start"], atol=1e-3)
    torch.testing.assert_close((first["losses"] + second["losses"]) / 2, one["losses"], rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def ce(tiny_shards, tmp_path_factory):
    """A run with cross-entropy, which no test modifies, except that sweeps add folders."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("ce"), {"rebalance.epochs": 0}, method="ce").run


def test_a_run_starts_with_class_means_and_resumes_within_the_first_epoch(ce, tiny_shards, monkeypatch):
    """`rebalance` gives the run that `train` would, and a stop after its second step changes nothing."""
    whole = train_tiny(tiny_shards, ce.parent.parent, TWO_EPOCHS, method="oltr", name="whole").run
    compute, computed = MemoryRebalancing._compute_centroids, []

    def recorded(self):
        compute(self)
        computed.append(self.network.classifier.centroids.detach().clone())

    monkeypatch.setattr(MemoryRebalancing, "_compute_centroids", recorded)
    with monkeypatch.context() as patched:
        record_steps(patched, lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == 2 else None)
        with pytest.raises(Stopped):
            fasticcl.rebalance(ce, method="oltr", set=TWO_EPOCHS, name="stopped")
    steps = record_steps(monkeypatch)
    report = resume(ce.parent.parent, "stopped")
    assert len(steps) == 2 * TINY_STEPS - 2
    assert not differences(report.run, whole)
    assert fasticcl.evaluate(report.run) == report

    network = Network.restore("resnet8", torch.load(report.run / "last.pt", weights_only=True)["teacher"])
    config, sums, counts = resolve(file=ce / "config.toml"), np.zeros((10, 64)), np.zeros(10)
    for images in evaluation_batches(Shards(tiny_shards, "train"), config.data, batch_size=7):
        for v, k in zip(network.eval().encoder(images.x).detach().double().numpy(), images.y, strict=True):
            sums[k] += v
            counts[k] += 1
    (start,) = computed
    np.testing.assert_allclose(start, sums / counts[:, None], rtol=1e-4, atol=1e-6)


def test_a_sweep_gives_the_accuracies_and_weights_of_separate_runs(ce, monkeypatch):
    stages, begin_epoch = [], MemoryRebalancing.begin_epoch

    def recorded(self, epoch):
        stages.append(self)
        begin_epoch(self, epoch)

    changes = {"rebalance.epochs": 1}
    with monkeypatch.context() as patched:
        patched.setattr(MemoryRebalancing, "begin_epoch", recorded)
        over = {"rebalance.centroid_loss_weight": [0, 0.5]}
        sweep = fasticcl.sweep(ce, method="oltr", over=over, set=changes, holdout=0)
    for stage, entry in zip(stages, sweep.entries, strict=True):
        separate = fasticcl.rebalance(ce, method="oltr", set=changes | entry.values)
        assert separate.rows["after"] == entry.metrics
        weights, expected = stage.network.state_dict(), load_file(separate.run / "model.safetensors")
        assert weights.keys() == expected.keys()
        assert all(torch.equal(weights[name], expected[name]) for name in expected)
