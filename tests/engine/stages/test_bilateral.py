"""The first stage of BBN: losses, gradients, schedule, ranks and rejected settings."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.batch import PairBatch, synthetic_batch
from fasticcl.engine.stages.bilateral import Bilateral
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.method.network import Network
from fasticcl.resolve import configure, resolve
from fasticcl.system.machine import Machine
from fasticcl.system.ranks import Ranks
from tests.support import two_tails_oracle as oracle
from tests.support.processes import tensors_on_ranks
from tests.support.small_runs import train_method
from tests.support.trained_runs import logits_of, noise_pixels

CLASSES, CPU = 5, torch.device("cpu")
COUNTS = np.array([90, 40, 12, 3, 1])


def make_stage(*assignments, ranks=None):
    torch.manual_seed(0)
    small = ["method.encoder=resnet8", "optim.epochs=5", "engine.device=cpu"]
    config = resolve("demo", method="bbn", assignments=[*small, *assignments])
    return Bilateral(config, CLASSES, Machine(CPU, False, "off", ranks or Ranks()), COUNTS)


def pair(size=8):
    batch = synthetic_batch("interpolative", size, 8, CLASSES, CPU, mixed=False)
    assert isinstance(batch, PairBatch)
    return batch


@pytest.mark.parametrize("epoch", range(5))
def test_losses_match_the_float64_oracle_in_each_epoch(epoch):
    stage, batch, alpha = make_stage(), pair(), 1 - (epoch / 5) ** 2
    stage.begin_epoch(epoch)
    logits = oracle.training_logits(copy.deepcopy(stage.network.state_dict()), batch.x_h, batch.x_t, alpha)
    losses = stage.losses(batch)
    assert [*losses] == ["loss", "ce_h", "ce_t"]
    for name, expected in (
        ("loss", oracle.training_loss(logits, batch.y_h, batch.y_t, alpha)),
        ("ce_h", oracle.training_loss(logits, batch.y_h, batch.y_t, 1)),
        ("ce_t", oracle.training_loss(logits, batch.y_h, batch.y_t, 0)),
    ):
        assert losses[name].item() == pytest.approx(expected.item(), rel=1e-5), name


@pytest.mark.parametrize("epoch", [0, 3])
def test_rebalancing_tail_has_no_gradient_in_the_first_epoch(epoch):
    stage = make_stage()
    stage.begin_epoch(epoch)
    stage.losses(pair())["loss"].backward()
    encoder, classes = stage.network.encoder, stage.network.classifier.weight.grad
    assert all(each.grad.any() for each in encoder.conventional.parameters())
    assert all(each.grad.any() for each in encoder.trunk.parameters())
    assert all(each.grad.any() == (epoch > 0) for each in encoder.rebalancing.parameters())
    assert classes[:, :64].any()
    assert classes[:, 64:].any() == (epoch > 0)


def test_tails_do_not_see_the_other_stream():
    stage, batch = make_stage(), pair()
    stage.begin_epoch(4)
    stage.network.eval()
    encoder = stage.network.encoder
    f_h, f_t = encoder.conventional_features(batch.x_h), encoder.rebalancing_features(batch.x_t)
    seen = []
    stage.network.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    stage.losses(batch)
    alpha = 1 - (4 / 5) ** 2
    torch.testing.assert_close(seen[0], torch.cat([2 * alpha * f_h, 2 * (1 - alpha) * f_t], dim=1))


@pytest.mark.parametrize("name", ["balanced_softmax", "ldam"])
def test_other_losses_with_class_weights_are_mixed_in_the_same_way(name):
    stage, batch, alpha = (
        make_stage(f"method.class_loss={name}", "method.class_weight_beta=0.9"),
        pair(),
        0.84,
    )
    stage.begin_epoch(2)
    logits = oracle.training_logits(copy.deepcopy(stage.network.state_dict()), batch.x_h, batch.x_t, alpha)
    losses = stage.losses(batch)
    for key, y in (("ce_h", batch.y_h), ("ce_t", batch.y_t)):
        expected = stage.classification(logits.float(), y)
        torch.testing.assert_close(losses[key], expected, rtol=1e-5, atol=1e-6)
    mixed = alpha * losses["ce_h"] + (1 - alpha) * losses["ce_t"]
    torch.testing.assert_close(losses["loss"], mixed, rtol=1e-6, atol=1e-7)


def test_weight_of_an_epoch_does_not_depend_on_earlier_epochs():
    stage = make_stage()
    address = stage.alpha.data_ptr()
    for epoch in (3, 1, 4, 0, 3):
        stage.begin_epoch(epoch)
        assert stage.alpha.item() == pytest.approx(1 - (epoch / 5) ** 2)
    assert stage.alpha.data_ptr() == address


def train_on(ranks):
    """Return the losses of some steps over all ranks, and the last weights."""
    stage, batch, losses = make_stage("engine.sync_bn=true", ranks=ranks), pair(), []
    part = slice(ranks.rank * 8 // ranks.world_size, (ranks.rank + 1) * 8 // ranks.world_size)
    mine = PairBatch(batch.x_h[part], batch.y_h[part], batch.x_t[part], batch.y_t[part], batch.lam[part])
    for epoch in (0, 0, 3, 4):
        stage.begin_epoch(epoch)
        losses.append(learn(stage, mine)["loss"].detach())
    losses = ranks.all_reduce(torch.stack(losses)) / ranks.world_size
    return {"losses": losses, **stage.network.state_dict()}


def test_two_ranks_have_the_losses_and_weights_of_one(tmp_path):
    alone = train_on(Ranks())
    for rank in tensors_on_ranks(tmp_path / "log", 2, train_on):
        torch.testing.assert_close(rank, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "fix"),
    [
        ("warmup_epochs=3", "warmup_epochs=0"),
        ("cooldown_epochs=1", "cooldown_epochs=0"),
        ("uniform_weight=1", "uniform_weight=0"),
        ("interpolative_weight=0", "interpolative_weight=1"),
        ("interpolative_cross_entropy=false", "interpolative_cross_entropy=true"),
        ("centroid_contrastive=true", "centroid_contrastive=false"),
        ("bn_mode=split", "bn_mode=separate"),
        ("bn_mode=concat", "bn_mode=separate"),
        ("mixup_after=stage1", "mixup_after=none"),
    ],
)
def test_contradicting_settings_name_the_value_to_set(setting, fix):
    with pytest.raises(UserError, match=rf"^method\.first_stage=bbn [^.]*\. Set method\.{fix}\.$"):
        resolve("demo", method="bbn", assignments=[f"method.{setting}"])
    assert resolve("demo", method="bbn", assignments=[f"method.{fix}"])


def test_classifier_that_would_remove_the_weights_of_the_tails_is_rejected():
    with pytest.raises(UserError, match=r"would remove the weights .*\. Set method\.classifier=linear\.$"):
        resolve("demo", method="bbn", assignments=["method.classifier=causal"])


@pytest.mark.parametrize("setting", ["alpha=2", "beta=2", "lambda_per=sample", "mixing_probability=0.5"])
def test_settings_of_lambda_are_reported_as_unused(setting):
    name = setting.partition("=")[0]
    with pytest.raises(UserError, match=rf"data\.{name} has no effect, because method\.first_stage is bbn"):
        configure("demo", method="bbn", set=[f"data.{setting}"])


@pytest.fixture(scope="module")
def finished(tiny_shards, tmp_path_factory):
    """A finished run, to which no test adds files."""
    return train_method(tiny_shards, tmp_path_factory.mktemp("bbn"), "bbn").run


@pytest.mark.parametrize("method", ["crt", "lws", "tau-norm", "ncm", "logit-adjustment-post-hoc"])
def test_second_stages_continue_a_run_with_its_encoder(finished, method):
    report = fasticcl.rebalance(finished, method=method, name=method)
    before, after = (load_file(folder / "model.safetensors") for folder in (finished, report.run))
    assert resolve(file=report.run / "config.toml").method.name == f"bbn+{method}"
    parameters = [name for name in before if name.startswith("encoder.") and "running" not in name]
    assert all(torch.equal(before[name], after[name]) for name in parameters if "tracked" not in name)
    assert before["classifier.weight"].shape == (10, 128)
    assert report.rows.keys() >= {"before", "after"}
    assert fasticcl.evaluate(report.run) == report


def test_second_stages_of_a_run_can_be_compared(finished):
    result = fasticcl.sweep(finished, over={"rebalance.tau": [0.0, 1.0]}, method="tau-norm", holdout=1)
    assert [entry.holdout_accuracy is not None for entry in result.entries] == [True, True]


def test_exported_network_and_model_card_have_both_tails(finished, tmp_path):
    file = fasticcl.export(finished, format="pt2", output=tmp_path / "model.pt2").file
    pixels, weights = noise_pixels(2), load_file(finished / "model.safetensors")
    logits, _ = torch.export.load(file).module()(torch.from_numpy(pixels))
    network = Network("resnet8", 10, settings=resolve("demo", method="bbn").method).eval()
    network.load_state_dict(weights)
    np.testing.assert_allclose(logits, logits_of(network, pixels), atol=1e-4, rtol=1e-4)
    parameters = sum(
        value.numel() for name, value in weights.items() if "running" not in name and "tracked" not in name
    )
    card = (tmp_path / "MODEL_CARD.md").read_text()
    assert f"a resnet8 with two tails and {parameters:,} parameters (encoder and classifier)" in card
