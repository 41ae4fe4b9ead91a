"""The banner: epochs of each phase, and the parts of the method."""

from types import SimpleNamespace

import numpy as np
import pytest

from fasticcl.engine.banner import banner, phase_epochs
from fasticcl.method.network import Network
from fasticcl.resolve import resolve


@pytest.mark.parametrize(
    ("assignments", "epochs"),
    [
        (["method.warmup_epochs=2"], {"warmup": 2, "interpolative": 3, "rebalance": 4}),
        (["method.warmup_epochs=0"], {"interpolative": 5, "rebalance": 4}),
        (["method.warmup_epochs=5", "rebalance.epochs=0"], {"warmup": 5}),
        (["method.warmup_epochs=5", "rebalance.readout=ncm"], {"warmup": 5}),
    ],
)
def test_phases_are_counted_in_order_and_absent_ones_left_out(assignments, epochs):
    config = resolve("demo", assignments=["optim.epochs=5", "rebalance.epochs=4", *assignments])
    assert [*phase_epochs(config).items()] == [*epochs.items()]


class Split(list):
    counts, split = np.array([9, 3]), "test"


def banner_lines(*assignments, method=None):
    config = resolve("demo", method=method, assignments=["method.encoder=resnet8", *assignments])
    machine = SimpleNamespace(ranks=SimpleNamespace(world_size=1), describe=lambda: "a machine")
    dataset = SimpleNamespace(train=Split("a" * 12), evaluated=Split("a"), holdout_rows=[], num_classes=2)
    return [*banner(config, dataset, Network("resnet8", 2), machine, 3)]


@pytest.mark.parametrize("method", [None, "ce"])
def test_banner_of_iccl_and_of_cross_entropy_has_no_parts(method):
    first_words = [line.split()[0] for line in banner_lines(method=method)]
    assert first_words == ["data", "method", "schedule", "machine"]


def test_banner_of_cmo_has_the_phases_in_order():
    *_, parts, schedule, _ = banner_lines(method="cmo")
    assert parts == "parts    CutMix of both streams (probability 0.5)"
    assert schedule.startswith("schedule epochs: 4 warm-up (T), 43 interpolative, 3 cooldown; 3 steps each;")
    *_, schedule, _ = banner_lines("method.cooldown_epochs=2", "method.warmup_epochs=0")
    assert schedule.startswith("schedule epochs: 48 interpolative, 2 cooldown, 10 rebalancing;")


def test_banner_names_the_parts_of_the_method():
    assignments = ["optim.epochs=10", "method.class_loss=focal", "data.resample_start=0.8"]
    lines = banner_lines(*assignments, "rebalance.readout=tau_norm", "rebalance.epochs=7", method="ce")
    assert lines[2] == (
        "parts    loss focal (γ = 1); re-sampling (γ = 0) from epoch 9; readout tau_norm (τ = 1)"
    )
    assert lines[3].startswith("schedule epochs: 10 representation; 3 steps each;")
