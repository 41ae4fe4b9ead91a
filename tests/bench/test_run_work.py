"""Counts of the steps and evaluations of a run."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.bench.dataset_sizes import DatasetSizes
from fasticcl.bench.run_work import StepKind, dataset_sizes, remaining_epochs, run_work
from fasticcl.engine.run.folder import RunFolder
from fasticcl.resolve import configure
from fasticcl.system.machine import Machine
from tests.support.small_runs import metrics, train_method

CPU = Machine(torch.device("cpu"), bfloat16=False, mode="off")
SIZES = DatasetSizes(np.array([60, 30, 13]), train=103, evaluated=50, from_shards=True)
STAGES = ("seed", "representation", "rebalancing")


def activities(work):
    """Return the number of steps of each activity."""
    steps = Counter()
    for part in work:
        steps[part.kind.activity] += part.steps
    return dict(steps)


def counted_epoch_by_epoch(method, epochs, done, *, t, start, second, every, batch):
    """Count steps as a run takes them: epoch by epoch of each stage, after those that are done."""
    is_m2m = method == "m2m" and math.ceil(start * epochs) < epochs
    readout = method == "ncm"
    run = [("seed", e, e == epochs - 1) for e in range(epochs if is_m2m else 0)]
    run += [("representation", e, e == epochs - 1) for e in range(epochs)]
    length = 1 if readout else second if method in ("iccl", "crt") else 0
    run += [("rebalancing", e, e == length - 1) for e in range(length)]
    steps = Counter()
    for stage, epoch, is_last in run[done:]:
        if stage == "rebalancing":
            phase = None if readout else "rebalance"
        elif stage == "representation" and is_m2m and epoch >= start * epochs:
            phase = "translation"
        elif stage == "representation" and epoch >= {"iccl": t, "bbn": 0}.get(method, epochs):
            phase = "interpolative"
        else:
            phase = "warmup"
        if phase:
            steps[phase] += 103 // batch
        if stage == "rebalancing" and readout:
            steps["evaluation"] += 103 / batch  # features of the training images
        if is_last or (epoch + 1) % every == 0:
            steps["evaluation"] += 50 / batch
    return dict(steps), Counter(stage for stage, _, _ in run[:done])


@settings(max_examples=60, deadline=None)
@given(
    method=st.sampled_from(["iccl", "ce", "crt", "bbn", "ncm", "m2m"]),
    epochs=st.integers(1, 12),
    warmup=st.integers(0, 12),
    start=st.sampled_from([0.3, 0.5, 0.8]),
    second=st.integers(1, 3),
    every=st.integers(1, 4),
    batch=st.sampled_from([10, 25, 103]),
    done=st.integers(0, 12),
)
def test_steps_are_those_of_the_remaining_epochs(method, epochs, warmup, start, second, every, batch, done):
    values = {"rebalance.epochs": second} if method in ("iccl", "crt") else {}
    values |= {"data.resample_start": start} if method == "m2m" else {}
    values |= {"method.warmup_epochs": min(warmup, epochs)} if method == "iccl" else {}
    options = {"epochs": epochs, "batch_size": batch, "device": "cpu"}
    config = configure("demo", method=method, set={**values, "engine.eval_every": every}, **options)
    expected, finished = counted_epoch_by_epoch(
        method, epochs, done, t=min(warmup, epochs), start=start, second=second, every=every, batch=batch
    )
    assert activities(run_work(config, SIZES, CPU, finished)) == pytest.approx(expected)


@pytest.mark.parametrize("method", ["m2m", "ncm"])
def test_steps_are_those_that_a_run_takes(method, tiny_shards, tmp_path):
    run = train_method(tiny_shards, tmp_path, method, {"engine.eval_every": 2}).run
    config = RunFolder.open(run).config
    steps = Counter()
    for record in metrics(run):
        if "val/top1" in record:
            steps[record["phase"]] += record["step"]
            steps["evaluation"] += record["val/top1"] is not None
    steps.pop("readout", None)
    work = activities(run_work(config, dataset_sizes(config), CPU))
    # fast_dev_run evaluates at most 3 batches of 20 of the 30 images, and ncm reads the 60 training images.
    features = 3 if method == "ncm" else 0
    assert work.pop("evaluation") == 1.5 * steps.pop("evaluation") + features
    assert work == steps


def test_second_stage_alone_has_only_its_epochs():
    config = configure("demo", epochs=5, batch_size=25, device="cpu")
    done = {"representation": 5}
    assert remaining_epochs(config, done)["representation"] == range(5, 5)
    work = activities(run_work(config, SIZES, CPU, done))
    assert work == {"rebalance": 40, "evaluation": 20}  # 10 epochs of 4 steps, and of 2 batches
    assert run_work(config, SIZES, CPU, {**done, "rebalancing": 10}) == []


def kind(activity, set=(), **options):
    return StepKind.of(configure("demo", set=dict(set), **options), activity, "off")


def test_settings_that_do_not_change_the_computation_share_a_kind():
    assert kind("interpolative") == kind("interpolative", {"optim.lr": 0.3, "data.alpha": 2.0}, seed=4)
    assert kind("rebalance", {"rebalance.gamma": 0.0}) == kind("rebalance")
    assert kind("warmup", method="ce") == kind("warmup", method="focal")
    assert len({kind("warmup"), kind("warmup", method="ce")}) == 2  # with and without centroids
    tuned = {"rebalance.encoder": "tuned"}
    second = [kind("rebalance", tuned | {"rebalance.distillation_weight": w}) for w in (0.0, 0.2, 0.5)]
    assert len({*second}) == 2
    assert len({kind("warmup", batch_size=size) for size in (16, 32)}) == 2
    assert len({kind("warmup", set={"method.encoder": name}) for name in ("resnet8", "resnet14")}) == 2
    methods = ("iccl", "mixup", "bbn", "manifold-mixup")
    assert len({kind("interpolative", method=name) for name in methods}) == 4


def test_translation_costs_more_for_larger_imbalance():
    config = configure("demo", method="m2m", epochs=10, batch_size=25, device="cpu")
    flat = replace(SIZES, counts=np.array([35, 34, 34]))
    costs = [
        next(part.cost for part in run_work(config, sizes, CPU) if part.kind.activity == "translation")
        for sizes in (flat, SIZES)
    ]
    assert 1 < costs[0] < costs[1]


def test_sizes_come_from_matching_shards_without_the_holdout(tiny_shards, tmp_path):
    sizes = dataset_sizes(configure("demo", data=tiny_shards, set={"data.holdout": 1}))
    assert (sizes.train, sizes.evaluated, sizes.from_shards) == (
        60 - 8,
        30,
        True,
    )  # two classes have one image
    other = dataset_sizes(configure("cifar10-lt", data=tiny_shards))
    assert (other.train, other.from_shards) == (12_406, False)
    assert dataset_sizes(configure("folder", data=tmp_path)) is None


@pytest.mark.parametrize(("epochs", "mode"), [(1, "off"), (10_000, "on")])
def test_steps_on_a_gpu_have_the_mode_of_the_run(epochs, mode):
    config = configure("demo", epochs=epochs, batch_size=25)
    gpu = Machine(torch.device("cuda", 0), bfloat16=True, mode="on")
    assert {part.kind.mode for part in run_work(config, SIZES, gpu)} == {mode}
