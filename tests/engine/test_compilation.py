"""Compiled training: nothing is recompiled after the first step of a phase."""

import pytest

from fasticcl.method.network import Network
from tests.support.small_runs import metrics, record_steps, same_weights, train_method, train_tiny

STEPS = 3  # per epoch, with two epochs per phase and an evaluation after each
PHASES = ("warm-up", "interpolative", "rebalancing")
SETTINGS = {"engine.compile": "on", "method.warmup_epochs": 2, "rebalance.epochs": 2}


def counts_by_phase(graphs, monkeypatch, shards, project, settings):
    """Return the number of graphs after each step of each phase."""
    counts = []
    record_steps(monkeypatch, after=lambda _: counts.append(len(graphs)))
    train_tiny(shards, project, SETTINGS | settings, epochs=4)
    assert len(counts) == 2 * STEPS * len(PHASES)
    return {phase: counts[2 * STEPS * i : 2 * STEPS * (i + 1)] for i, phase in enumerate(PHASES)}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rebalance.encoder": "tuned", "method.bn_mode": "split"},
        {"method.uniform_weight": 0},
    ],
    ids=str,
)
def test_nothing_is_compiled_after_the_first_step_of_a_phase(
    graphs, monkeypatch, tiny_shards, tmp_path, settings
):
    counts = counts_by_phase(graphs, monkeypatch, tiny_shards, tmp_path, settings)
    for phase, (first, *others) in counts.items():
        assert set(others) == {first}, phase
    assert 0 < counts["warm-up"][0] < counts["rebalancing"][0]  # the counts are not trivially zero


def test_recompilation_in_every_step_would_be_detected(graphs, monkeypatch, tiny_shards, tmp_path):
    forward = Network.forward

    def scaled(self, images):
        return forward(self, images * self.scale)

    monkeypatch.setattr(Network, "scale", 1.0, raising=False)
    monkeypatch.setattr(Network, "forward", scaled)
    counts = []

    def change(taken):
        counts.append(len(graphs))
        Network.scale = 1 / (1 + taken)

    record_steps(monkeypatch, after=change)
    train_tiny(tiny_shards, tmp_path, SETTINGS | {"rebalance.epochs": 0}, epochs=2)
    assert counts[0] < counts[1]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rebalance.encoder": "tuned", "method.bn_mode": "concat", "method.centroid_norm": "l2"},
        {"method.uniform_weight": 0, "method.class_loss": "balanced_softmax"},
        {
            "method.bn_mode": "split",
            "method.centroid_norm": "bias_corrected",
            "method.class_loss": "ldam",
            "method.class_weight_beta": 0.9,
            "method.class_weight_start": 0.5,
        },
    ],
    ids=str,
)
def test_whole_step_is_one_graph_and_matches_eager(graphs, tiny_shards, tmp_path, settings):
    settings = {"method.warmup_epochs": 1, "rebalance.epochs": 1} | settings
    eager, whole = (
        train_tiny(tiny_shards, tmp_path, settings | {"engine.compile": mode}, name=mode, epochs=2).run
        for mode in ("off", "step")
    )
    assert len(graphs) == len(PHASES)
    assert same_weights(eager, whole)
    assert metrics(eager) == metrics(whole)


@pytest.mark.parametrize("mode", ["on", "step"])
def test_all_epochs_of_bbn_have_the_same_compiled_code(graphs, monkeypatch, tiny_shards, tmp_path, mode):
    """Although the weights of its tails differ."""
    eager = train_method(tiny_shards, tmp_path, "bbn", {"engine.compile": "off"}, name="eager").run
    counts = []
    record_steps(monkeypatch, after=lambda _: counts.append(len(graphs)))
    run = train_method(tiny_shards, tmp_path, "bbn", {"engine.compile": mode}, name=mode).run
    assert counts == [1] * 2 * STEPS
    assert same_weights(eager, run)
    assert metrics(eager) == metrics(run)


def test_manifold_mixup_compiles_one_graph_for_each_block(graphs, tiny_shards, tmp_path):
    blocks = {"method.mixup_after": "input,stage2"}
    eager, compiled = (
        train_method(tiny_shards, tmp_path / mode, "manifold-mixup", blocks | {"engine.compile": mode}).run
        for mode in ("off", "step")
    )
    assert len(graphs) == 2
    assert same_weights(eager, compiled)
    assert metrics(eager) == metrics(compiled)
