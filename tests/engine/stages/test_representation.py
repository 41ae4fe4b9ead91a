"""The representation stage: equation 8, its schedule, and the use of x_h."""

import copy

import numpy as np
import pytest
import torch

from fasticcl.data.batch import Batch, PairBatch, StreamBatch
from fasticcl.data.loader import Loader
from fasticcl.data.plan import Plan
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.method.manifold_mixup import draw_block
from fasticcl.resolve import resolve
from fasticcl.shards.reader import Shards
from fasticcl.system.machine import choose_machine
from tests.support import class_loss_oracle, oracle
from tests.support.small_runs import TINY_COUNTS

CLASSES = 5
COUNTS = np.array([90, 40, 12, 3, 1])


def make_stage(*assignments, method=None, counts=None, classes=CLASSES):
    torch.manual_seed(0)
    small = ["method.encoder=resnet8", "method.embedding_dim=8", "engine.device=cpu"]
    config = resolve("demo", method=method, assignments=[*small, *assignments])
    stage = Representation(config, classes, choose_machine(config.engine), counts)
    stage.bank.centroids = torch.nn.functional.normalize(torch.randn(classes, 8), dim=1) * 0.9
    stage.begin_epoch(0)
    return stage


def pair(seed=1, size=12):
    draw = torch.Generator().manual_seed(seed)
    x_h, x_f = torch.randn(2, size, 3, 16, 16, generator=draw)
    y_h, y_t = torch.randint(0, CLASSES, (2, size), generator=draw)
    return Batch(x_h, y_h, x_f, y_t, torch.rand(size, generator=draw))


def outputs(stage, images):
    """Return logits and embeddings of a copy of the network, with its own batch statistics."""
    with torch.no_grad():
        output = copy.deepcopy(stage.network).train()(images)
    return output.logits.numpy(), None if output.embedding is None else output.embedding.numpy()


@pytest.mark.parametrize(("omega_u", "omega_it"), [(1.0, 1.0), (0.0, 1.0), (0.5, 2.0)])
def test_after_the_warm_up_the_loss_is_equation_8(omega_u, omega_it):
    stage = make_stage(f"method.uniform_weight={omega_u}", f"method.interpolative_weight={omega_it}")
    batch, tau = pair(), stage.method.temperature
    (logits_h, _), (logits_f, z_f) = outputs(stage, batch.x_h), outputs(stage, batch.x_f)
    labels = batch.y_h.numpy(), batch.y_t.numpy(), batch.lam.numpy()
    expected = oracle.total(
        oracle.cross_entropy(logits_h, labels[0]),
        oracle.interpolative_cross_entropy(logits_f, *labels),
        oracle.interpolative_centroid_contrastive(z_f, stage.bank.value.numpy(), *labels, tau),
        omega_u,
        omega_it,
    )
    assert stage.losses(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_in_the_warm_up_the_loss_is_cross_entropy_and_the_plain_centroid_loss():
    stage, batch = make_stage(), pair()
    logits, z = outputs(stage, batch.x_h)
    y = batch.y_h.numpy()
    expected = oracle.cross_entropy(logits, y)
    expected += oracle.centroid_contrastive(z, stage.bank.value.numpy(), y, stage.method.temperature)
    assert stage.losses(StreamBatch(batch.x_h, batch.y_h))["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("assignments", [(), ("method.uniform_weight=0",)])
def test_centroids_follow_the_class_agnostic_images_after_the_loss(assignments):
    stage, batch = make_stage(*assignments), pair()
    before, (_, z_h) = stage.bank.value.clone(), outputs(stage, batch.x_h)
    losses = stage.losses(batch)
    losses["loss"].backward()  # needs the centroids from before the update
    expected = oracle.centroid_ema(before.numpy(), z_h, batch.y_h.numpy(), 0.99)
    assert np.allclose(stage.bank.value.numpy(), expected, atol=1e-6)


def gradients(stage, batch):
    stage.network.zero_grad()
    stage.losses(batch)["loss"].backward()
    return {name: p.grad.clone() for name, p in stage.network.named_parameters() if p.grad is not None}


def test_bfloat16_pass_of_x_h_without_gradient_keeps_gradients_of_x_f():
    stage = make_stage("method.uniform_weight=0", "engine.precision=bfloat16")
    assert stage.machine.bfloat16
    stage.losses(pair())["loss"].backward()
    for name, weight in stage.network.encoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name


def test_without_a_uniform_weight_x_h_does_not_affect_the_gradient():
    stage, batch = make_stage("method.uniform_weight=0", "method.centroid_momentum=0.5"), pair()
    other = Batch(pair(seed=2).x_h, batch.y_h, batch.x_f, batch.y_t, batch.lam)
    twin = copy.deepcopy(stage)
    twin.forward = twin.network
    one, two = gradients(stage, batch), gradients(twin, other)
    assert one
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(stage.bank.value, twin.bank.value)  # x_h still updates the centroids


@pytest.mark.parametrize("mode", ["split", "concat"])
@pytest.mark.parametrize("omega_u", [0.0, 1.0])
def test_split_statistics_equal_separate_passes_and_concatenated_ones_do_not(mode, omega_u):
    assignments = (f"method.uniform_weight={omega_u}",)
    separate, joined = make_stage(*assignments), make_stage(*assignments, f"method.bn_mode={mode}")
    batch = pair()
    ours, reference = gradients(joined, batch), gradients(separate, batch)
    close = [torch.allclose(ours[name], reference[name], rtol=1e-3, atol=1e-5) for name in reference]
    statistics = [
        torch.allclose(a, b, atol=1e-5)
        for a, b in zip(joined.network.buffers(), separate.network.buffers(), strict=True)
    ]
    assert all(close) == (mode == "split")
    assert all(statistics) == (mode == "split")
    assert torch.allclose(joined.bank.value, separate.bank.value, atol=1e-5) == (mode == "split")


WEIGHTS = ("method.class_weight_beta=0.9", "method.class_weight_start=0.5", "optim.epochs=8")


def weighted_stage(epoch, *assignments):
    """Return a stage in an epoch of 8, whose class weights start in the fifth."""
    stage = make_stage(*WEIGHTS, *assignments, method="ce", counts=COUNTS)
    stage.begin_epoch(epoch)
    return stage


@pytest.mark.parametrize("epoch", [0, 3, 4, 7])
@pytest.mark.parametrize("norm", ["weights", "batch"])
def test_class_weights_start_after_their_fraction_of_the_epochs(epoch, norm):
    stage, batch = weighted_stage(epoch, f"method.class_weight_norm={norm}"), pair()
    logits, _ = outputs(stage, batch.x_h)
    y = batch.y_h.numpy()
    weights = class_loss_oracle.class_weights(COUNTS, 0.9)[y] if epoch >= 4 else np.ones(len(y))
    costs = class_loss_oracle.cross_entropy(logits.astype(np.float64))[np.arange(len(y)), y]
    expected = (weights * costs).sum() / (weights.sum() if norm == "weights" else len(y))
    assert stage.losses(StreamBatch(batch.x_h, batch.y_h))["loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["ce", "iccl"])
def test_gradients_before_the_class_weights_start_are_those_without(method):
    """A run with deferred re-weighting equals one without until its weights start."""
    batch = pair() if method == "iccl" else StreamBatch(pair().x_h, pair().y_h)
    weighted, plain = (make_stage(*each, method=method, counts=COUNTS) for each in (WEIGHTS, ()))
    weighted.begin_epoch(3)
    ours, expected = gradients(weighted, batch), gradients(plain, batch)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("epoch", [3, 4])
@pytest.mark.parametrize("name", ["cross_entropy", "sigmoid_focal"])
def test_a_restored_stage_has_the_momenta_and_the_class_weights_of_its_epoch(epoch, name):
    """Sigmoid focal loss has two parameter groups."""
    loss, batch = f"method.class_loss={name}", StreamBatch(pair().x_h, pair().y_h)
    undisturbed = weighted_stage(0, loss)
    learn(undisturbed, batch)
    for each in range(1, epoch + 1):
        undisturbed.begin_epoch(each)
    restored = make_stage(*WEIGHTS, loss, method="ce", counts=COUNTS)
    restored.load_state_dict(copy.deepcopy(undisturbed.state_dict()))
    restored.begin_epoch(epoch)
    batches = [batch] * 3
    losses = [[learn(stage, batch)["loss"] for batch in batches] for stage in (undisturbed, restored)]
    assert losses[0] == losses[1]


def test_the_bias_for_sigmoid_focal_starts_at_one_class_in_k_and_does_not_decay():
    stage = make_stage("method.class_loss=sigmoid_focal", method="ce")
    bias = stage.network.classifier.bias
    assert torch.sigmoid(bias).tolist() == pytest.approx([1 / CLASSES] * CLASSES)
    rest, undecayed = stage.optimizer.param_groups
    assert [each is bias for each in undecayed["params"]] == [True]
    assert (undecayed["weight_decay"], rest["weight_decay"]) == (0, stage.config.optim.weight_decay)
    assert len(rest["params"]) + 1 == len([*stage.network.parameters()])


@pytest.mark.parametrize(
    "assignments",
    [(), ("method.class_loss=focal",), ("method.class_loss=sigmoid_focal", "method.classifier=cosine")],
)
def test_other_losses_and_classifiers_have_one_parameter_group(assignments):
    (group,) = make_stage(*assignments, method="ce").optimizer.param_groups
    assert group["weight_decay"] > 0


def test_plain_cross_entropy_has_no_projection_head_and_one_loss():
    stage, batch = make_stage(method="ce"), pair()
    assert stage.network.projection is None
    losses = stage.losses(StreamBatch(batch.x_h, batch.y_h))
    assert set(losses) == {"loss", "ce"}
    assert losses["loss"] == losses["ce"]


def test_mixup_uses_only_mixed_images():
    stage, batch = make_stage(method="mixup"), pair()
    poisoned = Batch(torch.full_like(batch.x_h, torch.nan), batch.y_h, batch.x_f, batch.y_t, batch.lam)
    losses = stage.losses(poisoned)
    assert set(losses) == {"loss", "ce_it"}
    assert torch.isfinite(losses["loss"])


@pytest.mark.parametrize("lambda_per", ["batch", "sample"])
@pytest.mark.parametrize(
    ("method", "class_loss"),
    [("cmo", "cross_entropy"), ("cmo", "balanced_softmax"), ("iccl", "cross_entropy")],
)
def test_losses_of_cutmix_images_weight_their_classes_by_area(tiny_shards, method, class_loss, lambda_per):
    """The images and λ come from the loader, and the expected λ from the boxes of the plan."""
    cutmix = ["data.mixing=cutmix", f"data.lambda_per={lambda_per}", f"method.class_loss={class_loss}"]
    counts = np.array(TINY_COUNTS)
    stage = make_stage(*cutmix, method=method, counts=counts, classes=len(counts))
    shards = Shards(tiny_shards, "train")
    plan = Plan(shards.index, shards.counts, stage.config.data, batch_size=20, seed=3)
    batch = next(Loader(shards, plan, threads=1).batches("interpolative", 1, 1))
    boxes = plan.batch("interpolative", 1, 1).boxes
    area = boxes[:, 2].astype(np.float64) * boxes[:, 3] / 16**2
    logits, z = outputs(stage, batch.x_f)
    losses = {name: loss.item() for name, loss in learn(stage, batch).items()}
    costs = getattr(class_loss_oracle, class_loss)(
        *[logits.astype(np.float64), counts][: 1 + (class_loss == "balanced_softmax")]
    )
    y_h, y_t, rows = batch.y_h.numpy(), batch.y_t.numpy(), np.arange(20)
    expected = ((1 - area) * costs[rows, y_h] + area * costs[rows, y_t]).mean()
    assert losses["ce_it"] == pytest.approx(expected, rel=1e-5)
    assert set(losses) == {"loss", "ce_it"} | ({"ce", "cc_it"} if method == "iccl" else set())
    if method == "iccl":
        before = make_stage(*cutmix, method=method, counts=counts, classes=len(counts)).bank.value.numpy()
        contrast = oracle.interpolative_centroid_contrastive(z, before, y_h, y_t, 1 - area, 0.3)
        assert losses["cc_it"] == pytest.approx(contrast, rel=1e-5)


@pytest.mark.parametrize(
    ("switch", "names"),
    [
        ("method.interpolative_cross_entropy=false", {"loss", "ce", "cc_it"}),
        ("method.centroid_contrastive=false", {"loss", "ce", "ce_it"}),
        ("method.uniform_weight=0", {"loss", "ce_it", "cc_it"}),
    ],
)
def test_the_rows_of_table_4_are_switches(switch, names):
    assert set(make_stage(switch).losses(pair())) == names


CAUSAL = ("method.classifier=causal", "method.classifier_scale=16")


def test_the_momentum_of_the_feature_mean_follows_the_learning_rate_of_the_epoch():
    """The official rule for ImageNet-LT, 1 - 0.1 · min(50 · rate, 1). On CIFAR, the momentum is constant."""
    stage = make_stage("optim.lr=0.2", "optim.epochs=90", "optim.warmup_epochs=0", method="tde")
    momenta = []
    for epoch in range(90):
        stage.begin_epoch(epoch)
        momenta.append(float(stage.network.classifier.momentum))
    rates = 0.1 * (1 + np.cos(np.pi * np.arange(90) / 90))
    np.testing.assert_allclose(momenta, 1 - 0.1 * np.minimum(50 * rates, 1), rtol=1e-6)
    assert momenta[71] == pytest.approx(0.9)  # the rate is 0.0209
    assert momenta[80] == pytest.approx(0.9698463)
    constant = make_stage("optim.lr=0.2", "method.causal_momentum_decay=false", method="tde")
    constant.begin_epoch(49)
    assert float(constant.network.classifier.momentum) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("assignments", "passes"),
    [
        (("method.uniform_weight=1",), ["h", "f"]),
        (("method.uniform_weight=0",), ["h", "f"]),
        (("method.uniform_weight=0", "method.centroid_contrastive=false"), ["f"]),
        (("method.bn_mode=concat",), ["both"]),
    ],
)
def test_every_forward_pass_of_a_step_updates_the_feature_mean(assignments, passes):
    stage, batch = make_stage(*CAUSAL, *assignments), pair()
    images = {"h": batch.x_h, "f": batch.x_f, "both": torch.cat([batch.x_h, batch.x_f])}
    encoder = copy.deepcopy(stage.network.encoder).train()
    expected = np.zeros(64)
    for name in passes:
        expected = 0.9 * expected + encoder(images[name]).detach().numpy().mean(axis=0)
    learn(stage, batch)
    np.testing.assert_allclose(stage.network.classifier.mean.flatten(), expected, rtol=1e-4, atol=1e-6)


def test_training_in_the_first_stage_does_not_depend_on_alpha():
    losses = []
    for alpha in (0.0, 2.0):
        stage = make_stage(*CAUSAL)
        stage.network.classifier.alpha.fill_(alpha)
        losses.append([learn(stage, pair(seed))["loss"].item() for seed in (1, 2)])
    assert losses[0] == losses[1]


def test_a_number_of_heads_that_does_not_divide_the_features_is_refused():
    with pytest.raises(UserError, match=r"cannot divide 64 features into 3 equal heads\. Set method\."):
        make_stage(*CAUSAL, "method.causal_heads=3")


def unmixed(seed=1, size=12, rng=None):
    """Return a batch of unmixed streams, and the batch of the same images mixed by equation 3."""
    batch = pair(seed, size)
    x_h, x_t, weight = batch.x_h, pair(seed + 1, size).x_h, batch.lam.view(-1, 1, 1, 1)
    labels = {"y_h": batch.y_h, "y_t": batch.y_t, "lam": batch.lam}
    rng = rng or np.random.default_rng(0)
    return PairBatch(x_h=x_h, x_t=x_t, rng=rng, **labels), Batch(
        x_h=x_h, x_f=weight * x_h + (1 - weight) * x_t, **labels
    )


def manifold_stage(blocks, *assignments, method="mixup", counts=None):
    mixing = ("data.mixing=none", f"method.mixup_after={blocks}")
    return make_stage(*mixing, *assignments, method=method, counts=counts)


@pytest.mark.parametrize(
    ("method", "assignments"),
    [
        ("mixup", ()),
        ("mixup", ("method.bn_mode=concat",)),
        ("mixup", ("method.bn_mode=split", "method.class_loss=ldam", "method.class_weight_beta=0.9")),
        ("iccl", ()),
        ("iccl", ("method.uniform_weight=0",)),
    ],
)
def test_manifold_mixup_at_the_input_equals_mixing_the_images(method, assignments):
    manifold = manifold_stage("input", *assignments, method=method, counts=COUNTS)
    mixup = make_stage(*assignments, method=method, counts=COUNTS)
    for step in range(3):
        streams, mixed = unmixed(seed=1 + 2 * step)
        ours, expected = learn(manifold, streams), learn(mixup, mixed)
        assert ours.keys() == expected.keys()
        assert all(torch.equal(ours[name], expected[name]) for name in expected)
    state, reference = manifold.network.state_dict(), mixup.network.state_dict()
    assert all(torch.equal(state[name], reference[name]) for name in reference)
    assert torch.equal(manifold.bank.value, mixup.bank.value)


def test_each_step_mixes_after_the_block_that_its_generator_draws():
    blocks, drawn = ("input", "stage1", "pool"), set()
    expected = {block: manifold_stage(block).losses(unmixed()[0])["loss"].item() for block in blocks}
    assert len({*expected.values()}) == len(blocks)
    stage = manifold_stage(",".join(blocks))
    for seed in (0, 1, 11):
        block = draw_block(blocks, np.random.default_rng(seed))
        drawn.add(block)
        batch = unmixed(rng=np.random.default_rng(seed))[0]
        assert stage.losses(batch)["loss"].item() == expected[block]
    assert drawn == {*blocks}


def test_with_states_mixed_the_loss_is_equation_8_and_x_h_updates_the_centroids():
    stage = manifold_stage("stage2", "method.uniform_weight=0.5", method="iccl")
    (batch, _), tau, before = unmixed(), stage.method.temperature, stage.bank.value.clone()
    labels = batch.y_h.numpy(), batch.y_t.numpy(), batch.lam.numpy()
    logits_h, z_h = outputs(stage, batch.x_h)
    encoder = copy.deepcopy(stage.network).train()
    h, t = (encoder.encoder.conv(x) for x in (batch.x_h, batch.x_t))
    h, t = (torch.relu(encoder.encoder.bn(x)) for x in (h, t))
    h, t = (encoder.encoder.blocks[1](encoder.encoder.blocks[0](x)) for x in (h, t))
    weight = batch.lam.view(-1, 1, 1, 1)
    features = encoder.encoder.blocks[2](weight * h + (1 - weight) * t).mean((2, 3))
    logits = encoder.classifier(features).detach().numpy()
    z = torch.nn.functional.normalize(encoder.projection(features)).detach().numpy()
    expected = oracle.total(
        oracle.cross_entropy(logits_h, labels[0]),
        oracle.interpolative_cross_entropy(logits, *labels),
        oracle.interpolative_centroid_contrastive(z, before.numpy(), *labels, tau),
        0.5,
        1.0,
    )
    assert stage.losses(batch)["loss"].item() == pytest.approx(expected, rel=1e-5)
    centroids = oracle.centroid_ema(before.numpy(), z_h, labels[0], 0.99)
    assert np.allclose(stage.bank.value.numpy(), centroids, atol=1e-6)


@pytest.mark.parametrize("mode", ["split", "concat"])
@pytest.mark.parametrize("method", ["mixup", "iccl"])
def test_batch_statistics_before_the_mixing_point_follow_the_setting(mode, method):
    separate = manifold_stage("stage2", method=method)
    joined = manifold_stage("stage2", f"method.bn_mode={mode}", method=method)
    batch = unmixed()[0]
    ours, reference = gradients(joined, batch), gradients(separate, batch)
    close = [torch.allclose(ours[name], reference[name], rtol=1e-3, atol=1e-5) for name in reference]
    assert all(close) == (mode == "split")


def test_an_unknown_block_is_an_error_when_the_stage_is_built():
    with pytest.raises(UserError, match=r"no block 'stage9'\. Did you mean stage"):
        manifold_stage("input,stage9")
