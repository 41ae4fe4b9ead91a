"""The banner: epochs of each phase, and the parts of the method."""

from types import SimpleNamespace

import numpy as np
import pytest

from fasticcl.engine.banner import banner, phase_epochs, resume_line
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.method.network import Network
from fasticcl.resolve import resolve

M2M = ("method.first_stage=m2m", "data.resample_start=0.8")
SOME = {"warmup": 1, "interpolative": 3}


@pytest.mark.parametrize(
    ("assignments", "epochs"),
    [
        (["method.warmup_epochs=2"], {"warmup": 2, "interpolative": 3, "rebalance": 4}),
        (["method.warmup_epochs=0"], {"interpolative": 5, "rebalance": 4}),
        (["method.warmup_epochs=5", "rebalance.epochs=0"], {"warmup": 5}),
        (["method.warmup_epochs=5", "rebalance.readout=ncm"], {"warmup": 5}),
        ([*M2M, "method.warmup_epochs=5"], {"warmup": 5 + 4, "translation": 1, "rebalance": 4}),
        ([*M2M, "method.seed_run=a", "method.warmup_epochs=1"], {**SOME, "translation": 1, "rebalance": 4}),
    ],
)
def test_phases_are_counted_in_order_and_absent_ones_left_out(assignments, epochs):
    config = resolve("demo", assignments=["optim.epochs=5", "rebalance.epochs=4", *assignments])
    assert [*phase_epochs(config).items()] == [*epochs.items()]


class Split(list):
    counts, split = np.array([9, 3]), "test"
    manifest = SimpleNamespace(
        dataset="demo",
        settings={},
        classes=["a", "b"],
        splits={"train": SimpleNamespace(class_counts=[9, 3])},
    )


def banner_lines(*assignments, method=None, dataset="demo"):
    config = resolve(dataset, method=method, assignments=["method.encoder=resnet8", *assignments])
    machine = SimpleNamespace(ranks=SimpleNamespace(world_size=1), describe=lambda: "a machine")
    splits = SimpleNamespace(train=Split("a" * 12), evaluated=Split("a"), holdout_rows=[], num_classes=2)
    return [*banner(config, splits, Network("resnet8", 2), machine, 3)]


@pytest.mark.parametrize("method", [None, "ce"])
def test_banner_of_iccl_and_of_cross_entropy_has_no_parts(method):
    first_words = [line.split()[0] for line in banner_lines(method=method)]
    assert first_words == ["data", "method", "schedule", "machine"]


def test_banner_names_the_figure_of_the_paper_or_says_that_there_is_none():
    assert not any(line.startswith("paper") for line in banner_lines())
    assert banner_lines(dataset="cifar100-lt", method="cmo")[-2] == (
        "paper    no figure for cmo on cifar100-lt with imbalance ratio 100"
    )
    assert banner_lines(dataset="cifar100-lt")[-2].startswith("paper    Table 1: overall 46.6 %")
    trial = banner_lines("engine.fast_dev_run=true")
    assert not any(line.startswith("paper") for line in trial)


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


def test_banner_of_m2m_has_the_seed_stage_and_the_cost():
    """Two classes of 9 and 3 images: half of the images are of the small class, and 2 of 3 are chosen."""
    _, _, parts, schedule, cost, *_ = banner_lines("optim.epochs=9", "method.m2m_beta=0.5", method="m2m")
    assert "translation (10 steps of 0.1, β = 0.5" in parts
    assert schedule.startswith("schedule epochs: 9 seed network, 6 representation, 3 translation; 3 steps")
    share = 1 / 3 * (1 - 0.5**6)
    relative = 1 + share * 41 / 3
    assert cost == (
        "cost     seed network: 9 epochs first; translation: 3 epochs with 10 steps of two networks on 33% "
        "of the images (33% are chosen, β rejects some of them), about "
        f"{relative:.1f} times the cost of an epoch of cross-entropy; the whole run costs about "
        f"{(15 + 3 * relative) / 9:.1f} times as much as cross-entropy"
    )


@pytest.mark.parametrize(
    ("stage", "epoch", "line"),
    [
        ("seed", 3, "resumed  seed epoch 4 of 9, step 2 of 12"),
        ("seed", 9, "resumed  after the last seed epoch"),
        ("representation", 3, "resumed  representation epoch 4 of 9, step 2 of 12"),
        ("rebalancing", 3, "resumed  rebalancing epoch 4 of 5, step 2 of 12"),
    ],
)
def test_resumed_run_names_its_stage(stage, epoch, line):
    config = resolve("demo", method="m2m", assignments=["optim.epochs=9", "rebalance.epochs=5"])
    checkpoint = Checkpoint(stage, epoch, 2, "", {"network": {}})
    assert resume_line(config, checkpoint, 12) == line


def test_banner_has_the_choice_of_images_after_the_data(monkeypatch):
    monkeypatch.setattr(Split.manifest, "settings", {"long_tail": 3.0})
    first, second, *_ = banner_lines()
    assert first.startswith("data ")
    assert second.startswith("subset   The training images are a seeded random choice")
    assert second.endswith(" imbalance ratio 3.")
