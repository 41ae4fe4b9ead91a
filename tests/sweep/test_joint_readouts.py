"""Sweeps of readouts, compared with separate runs."""

import json

import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.evaluation_loader import EvaluationLoader
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.errors import UserError
from tests.support.small_runs import train_tiny

TAUS = {"rebalance.tau": [0, 0.5, 2]}


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    """A run of cross-entropy. Tests may add sweep folders to it."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("ce"), {"rebalance.epochs": 0}, method="ce").run


def test_readouts_of_a_sweep_share_one_pass_and_equal_separate_runs(run, monkeypatch):
    iterate, passes = EvaluationLoader.__iter__, []

    def counted(self):
        passes.append(sum(map(len, self._rows)))
        return iterate(self)

    begin_epoch, stages = ReadoutStage.begin_epoch, []

    def recorded(self, epoch):
        begin_epoch(self, epoch)
        stages.append(self)

    monkeypatch.setattr(EvaluationLoader, "__iter__", counted)
    monkeypatch.setattr(ReadoutStage, "begin_epoch", recorded)
    over = {"rebalance.readout": ["tau_norm", "log_prior"], **TAUS}
    sweep = fasticcl.sweep(run, over=over, method="tau-norm", holdout=0)
    assert passes == [60, 30]  # the training images and the evaluated split, once for all six
    passes.clear()
    mixed = fasticcl.sweep(run, over={"rebalance.readout": ["ncm", "log_prior"]}, method="ncm", holdout=0)
    assert passes == [60, 30]
    entries = [*sweep.entries, *mixed.entries]
    for number in (1, 4, 6):  # tau_norm, log_prior and ncm
        separate = fasticcl.rebalance(run, method="tau-norm", set=entries[number].values)
        assert separate.rows["after"] == entries[number].metrics
        weights = load_file(separate.run / "model.safetensors")
        for name, value in stages[number].network.state_dict().items():
            assert torch.equal(value, weights[name])
    assert sweep.entries[3].metrics == sweep.before  # log_prior with τ = 0


def test_tau_is_chosen_on_the_holdout_and_the_command_repeats_it(run, run_cli):
    words = ["--method", "tau-norm", "--over", "rebalance.tau=0,0.5,1,2,1e4", "--json"]
    code, out, _ = run_cli("sweep", run, *words)
    assert code == 0
    printed = json.loads(out)
    rated = {entry["values"]["rebalance.tau"]: entry["simulated"] for entry in printed["settings"]}
    assert rated.pop(1e4) is None  # weights that are not finite
    assert printed["settings"][4]["val/top1"] is None
    best = printed["best"]["rebalance.tau"]
    assert rated[best] == max(rated.values())
    assert len(set(rated.values())) > 1
    assert printed["method"] == "tau-norm"
    assert printed["command"] == f"fasticcl rebalance {run} --method tau-norm --set rebalance.tau={best}"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--over", "rebalance.tau=0,1"], "Add --method tau-norm"),
        (["--method", "ncm", "--over", "rebalance.tau=0,1"], "The readout ncm does not use rebalance.tau"),
        (["--method", "tau-norm", "--over", "rebalance.gamma=0,1"], "does not use rebalance.gamma"),
        (["--method", "focal", "--over", "rebalance.gamma=0,1"], "The method focal has no second stage"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_settings_that_a_readout_ignores_are_refused(run, run_cli, words, sentence):
    before = {path.name for path in run.iterdir()}
    code, _, error = run_cli("sweep", run, *words)
    assert code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert {path.name for path in run.iterdir()} == before


def test_the_holdout_is_left_out_of_the_class_means(run, monkeypatch):
    seen, begin_epoch = [], ReadoutStage.begin_epoch

    def counted(self, epoch):
        begin_epoch(self, epoch)
        seen.append(sum(len(classes) for _, classes in self.features))

    monkeypatch.setattr(ReadoutStage, "begin_epoch", counted)
    sweep = fasticcl.sweep(run, over={"rebalance.readout": ["ncm"]}, method="ncm", holdout=1)
    assert sweep.holdout.images == 8
    assert seen == [60 - 8]


def test_alpha_is_chosen_on_the_holdout_and_equals_a_separate_run(run, tiny_shards, tmp_path):
    settings = {"rebalance.alpha": 2.0, "data.holdout": 0.3}
    causal = train_tiny(tiny_shards, tmp_path, settings, method="tde").run
    sweep = fasticcl.sweep(causal, over={"rebalance.alpha": [0, 2, 8]}, method="tde")
    assert sweep.entries[0].metrics == sweep.before
    rated = [entry.holdout_accuracy for entry in sweep.entries]
    assert len(set(rated)) > 1
    assert sweep.best.holdout_accuracy == max(rated)
    assert sweep.entries[1].metrics == fasticcl.evaluate(causal).rows["after"] != sweep.before
    separate = fasticcl.rebalance(causal, method="tde", set=sweep.entries[2].values)
    assert separate.rows["after"] == sweep.entries[2].metrics
    assert fasticcl.evaluate(separate.run).rows == separate.rows
    with pytest.raises(UserError, match=r"tde requires a causal classifier, because .* with --method tde"):
        fasticcl.sweep(run, over={"rebalance.alpha": [0, 2]}, method="tde")
