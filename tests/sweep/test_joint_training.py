"""Joint training of several rebalancing stages, compared with separate runs."""

import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.resolve import resolve
from fasticcl.sweep.joint_training import joint_key
from tests.support.small_runs import TINY_COUNTS


def assert_same_weights(stage, run):
    weights, expected = stage.network.state_dict(), load_file(run / "model.safetensors")
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_joint_training_is_bit_identical_to_separate_runs(run, trained_stages, monkeypatch):
    encode, encoded = Rebalancing.encode, []

    def counted(self, batch):
        encoded.append(batch)
        return encode(self, batch)

    monkeypatch.setattr(Rebalancing, "encode", counted)
    over = {
        "rebalance.distillation_weight": [0.2, 0.5],
        "rebalance.classifier": ["continue", "reinit"],
        "rebalance.gamma": [0, 1],
    }
    sweep = fasticcl.sweep(run, over=over, holdout=0)
    assert len(sweep.entries) == len(trained_stages) == 8
    assert len(encoded) == 2 * 2 * (sum(TINY_COUNTS) // 20)  # one pass of two epochs for each γ'
    stages = {
        (stage.settings.distillation_weight, stage.settings.classifier, stage.settings.gamma): stage
        for stage in trained_stages
    }
    for entry in (sweep.entries[0], sweep.entries[3], sweep.entries[6]):
        separate = fasticcl.rebalance(run, set=entry.values)
        assert separate.rows["after"] == entry.metrics
        stage = stages[tuple(entry.values.values())]
        assert stage.network.state_dict().keys() == load_file(separate.run / "model.safetensors").keys()
        assert_same_weights(stage, separate.run)


def test_tuned_encoders_are_trained_separately_and_bit_identically(run, trained_stages):
    over = {"rebalance.distillation_temperature": [1, 5, 20]}
    sweep = fasticcl.sweep(run, over=over, set={"rebalance.encoder": "tuned"}, holdout=0)
    separate = fasticcl.rebalance(run, set={"rebalance.encoder": "tuned", **sweep.entries[1].values})
    assert_same_weights(trained_stages[1], separate.run)
    assert separate.rows["after"] == sweep.entries[1].metrics


def test_moving_batch_statistics_do_not_reach_other_settings(run, trained_stages):
    over = {"rebalance.batch_norm": ["train", "eval"], "rebalance.classifier": ["continue", "frozen"]}
    changes = {"rebalance.class_scale": True, "rebalance.smoothing_head": 0.4}
    sweep = fasticcl.sweep(run, over=over, set=changes, holdout=0)
    assert [entry.values["rebalance.batch_norm"] for entry in sweep.entries] == ["train"] * 2 + ["eval"] * 2
    for entry, stage in [*zip(sweep.entries, trained_stages, strict=True)][1:3]:
        separate = fasticcl.rebalance(run, set=changes | entry.values)
        assert_same_weights(stage, separate.run)
        assert separate.rows["after"] == entry.metrics


def test_settings_with_the_same_features_are_trained_jointly():
    def key(*assignments):
        words = [f"rebalance.{each}" for each in ("encoder=frozen", *assignments)]
        return joint_key(resolve("demo", assignments=words))

    scaled = ("class_scale=true", "classifier=frozen", "distillation_weight=0", "lr_factor=0.5")
    assert key() == key(*scaled)
    assert key("batch_norm=train") == key("batch_norm=train", "class_scale=true", "smoothing_head=0.1")
    keys = [
        key(),
        key("batch_norm=train"),
        key("batch_norm=train", *scaled),
        key("gamma=0.5"),
        key("epochs=3"),
    ]
    assert len({*keys}) == len(keys)
