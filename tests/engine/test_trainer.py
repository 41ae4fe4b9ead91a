"""Small complete runs: reproducibility, resuming, all presets and methods, and later evaluation."""

import csv
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Item, Source
from fasticcl.data.dali import graph
from fasticcl.engine import trainer
from fasticcl.engine.dataset import open_dataset
from fasticcl.engine.loop import Loop
from fasticcl.errors import Stopped, TrainingFailed, UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import Machine
from tests.support.images import encode, noise, photographs
from tests.support.small_runs import (
    FILES,
    IMAGES,
    SHORTEST,
    SMALL,
    TINY,
    TINY_COUNTS,
    TINY_STEPS,
    metrics,
    resume,
    same_weights,
    train_demo,
    train_tiny,
)

STEPS = IMAGES // 40


def test_equal_seeds_give_equal_runs_and_other_seeds_do_not(train_few):
    one, again, other = (train_few(name=name, seed=seed) for name, seed in [("a", 5), ("b", 5), ("c", 6)])
    assert metrics(one.run) == metrics(again.run)
    assert one.rows == again.rows
    assert same_weights(one.run, again.run)
    assert metrics(one.run) != metrics(other.run)
    assert not same_weights(one.run, other.run)


def test_losses_of_both_stages_have_the_class_counts_of_the_training_images(
    tiny_shards, tmp_path, monkeypatch
):
    seen = []

    def recorded(build):
        def built(*arguments):
            seen.append(arguments[3].tolist())
            return build(*arguments)

        return built

    for name in ("build_first_stage", "build_second_stage"):
        monkeypatch.setattr(trainer, name, recorded(getattr(trainer, name)))
    train_tiny(tiny_shards, tmp_path, method="mislas", fast_dev_run=True)
    assert seen == [TINY_COUNTS] * 2


def test_run_folder_has_all_files_and_records(train):
    report = train()
    names = {path.name for path in report.run.iterdir()}
    assert names == FILES
    records = metrics(report.run)
    assert [(r["stage"], r["epoch"]) for r in records if "val/top1" in r] == [
        ("representation", 1),
        ("representation", 2),
        ("representation", 3),
        ("rebalancing", 1),
        ("rebalancing", 2),
    ]
    assert [r["phase"] for r in records if "val/top1" in r] == [
        "warmup",
        *["interpolative"] * 2,
        *["rebalance"] * 2,
    ]
    places = [(r["stage"], r["epoch"], r["step"]) for r in records if "val/top1" not in r]
    assert len(set(places)) == len(places) == 5 * (STEPS // 2)
    with open(report.run / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["val/top1"]) for row in rows] == [r["val/top1"] for r in records if "val/top1" in r]
    assert report.rows["before"]["val/top1"] == float(rows[2]["val/top1"])
    assert report.rows["after"]["val/top1"] == float(rows[4]["val/top1"])
    assert report.rows["best"]["val/top1"] == max(float(row["val/top1"]) for row in rows[3:])
    weights = load_file(report.run / "model.safetensors")
    assert "classifier.weight" in weights
    assert not [name for name in weights if name.startswith("projection")]


def test_written_configuration_reproduces_the_run(train_few, tmp_path):
    first = train_few(name="first", seed=3)
    again = fasticcl.train(config=first.run / "config.toml", name="again")
    assert again.run == tmp_path / "demo" / "again"
    assert metrics(again.run) == metrics(first.run)


@pytest.mark.parametrize(
    ("encoder", "stops"),
    [("frozen", [1, 3, 4, 5, 8]), ("tuned", [8, 9, 10, 11])],
    ids=str,
)
def test_stopped_and_resumed_run_equals_an_uninterrupted_one(
    train_few, tmp_path, monkeypatch, encoder, stops
):
    """The stops are within and between the phases, and within and between log lines. An epoch has 3 steps."""
    settings = {"rebalance.encoder": encoder, "engine.log_every": 2, "engine.save_every": "500"}
    undisturbed = train_few(name="undisturbed", set=settings)
    taken, step = 0, Loop.take_step

    def counted(self, *arguments):
        nonlocal taken
        taken += 1
        step(self, *arguments)
        if taken in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Loop, "take_step", counted)
    for number, _ in enumerate(stops):
        with pytest.raises(Stopped) as stopped:
            resume(tmp_path) if number else train_few(set=settings)
        assert stopped.value.signum == signal.SIGTERM
        assert stopped.value.command == f"fasticcl train demo --project {tmp_path} --name run --resume"
    workers, build_loader = [], trainer.build_loader

    def record_workers(config, *arguments):
        workers.append(config.engine.workers)
        return build_loader(config, *arguments)

    monkeypatch.setattr(trainer, "build_loader", record_workers)
    continued = resume(tmp_path, workers=2)
    assert workers == [2]
    assert taken == 4 * TINY_STEPS  # no step was repeated or skipped
    assert continued.rows == undisturbed.rows
    assert metrics(continued.run) == metrics(undisturbed.run)
    assert same_weights(continued.run, undisturbed.run)


def test_resume_selects_the_newest_run(train_few, tmp_path):
    train_few(name="first", **SHORTEST)
    train_few(name="second", **SHORTEST)
    assert fasticcl.train("demo", project=tmp_path, resume=True).run.name == "second"


def test_non_finite_loss_stops_the_run(train):
    with pytest.raises(
        TrainingFailed,
        match=r"The loss was not finite at step \d+ of representation epoch 1, on train/shard-.*Lower --lr",
    ):
        train(lr=1e12, set={"optim.warmup_epochs": 0})


@pytest.fixture(scope="module")
def plain(tiny_shards, tmp_path_factory):
    """A run with the default settings."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("plain")).run


@pytest.mark.parametrize(
    "settings",
    [
        {"data.lambda_per": "sample"},
        {"data.gamma": 0.7, "rebalance.gamma": 0.3},
        {"method.bn_mode": "concat", "method.uniform_weight": 0},
        {"method.centroid_norm": "l2"},
        {"method.centroid_norm": "bias_corrected"},
        {"optim.nesterov": True, "optim.schedule": "step"},
        {"data.color_jitter": [0.4, 0.4, 0.4]},
        {"data.crop": "random_resized", "data.crop_scale": [0.5, 1.0], "data.eval_resize": 10},
        {"engine.precision": "bfloat16"},
    ],
    ids=str,
)
def test_every_option_trains_and_changes_the_result(train_few, plain, settings):
    switched = train_few(set=settings)
    assert metrics(plain)[-1]["train/loss"] != metrics(switched.run)[-1]["train/loss"]
    assert fasticcl.evaluate(switched.run) == switched


def test_split_batch_norm_matches_separate_passes(train):
    # Only three steps of each phase, because rounding differences grow over whole epochs.
    options = {"fast_dev_run": True, "set": {"engine.log_every": 1}}
    separate = train(name="separate", **options)
    split = train(name="split", **options | {"set": {**options["set"], "method.bn_mode": "split"}})
    for one, two in zip(metrics(separate.run), metrics(split.run), strict=True):
        assert one["train/loss"] == pytest.approx(two["train/loss"], rel=1e-4)


def test_training_learns_the_digits(digit_shards, tmp_path):
    report = train_demo(digit_shards, tmp_path, epochs=9, batch_size=32)
    chance = 10.0
    assert report.rows["after"]["val/top1"] > 5 * chance
    assert report.rows["after"]["val/few"] > report.rows["before"]["val/few"]


def cifar_source(dataset):
    rng = np.random.default_rng(0)
    classes = 10 if dataset == "cifar10-lt" else 100
    train = [
        Item(encode(noise(rng), "PNG"), k, f"{k}/{i}.png")
        for k in range(classes)
        for i in range(max(1, 12 - k))
    ]
    test = [Item(encode(noise(rng), "PNG"), k, f"{k}.png") for k in range(classes)]
    return Source("folder", [str(k) for k in range(classes)], {"train": train, "test": test})


@pytest.mark.parametrize("dataset", ["cifar10-lt", "cifar100-lt"])
def test_cifar_presets_train_on_32_pixel_images(dataset, tmp_path):
    convert(cifar_source(dataset), tmp_path / "shards")
    options = {"data": tmp_path / "shards", "project": tmp_path, "fast_dev_run": True, "report": False}
    report = fasticcl.train(dataset, imbalance=50, batch_size=32, **options)
    phases = [record["phase"] for record in metrics(report.run)]
    assert phases == ["warmup", "interpolative", "rebalance"]
    assert load_file(report.run / "model.safetensors")["encoder.conv.weight"].shape == (16, 3, 3, 3)
    assert report.split == "test"


@pytest.mark.parametrize(
    ("dataset", "encoder"),
    [("imagenet-lt", "resnet18"), ("inat2018", "resnet8"), ("folder", "resnet8")],
)
def test_large_presets_train_on_photographs(dataset, encoder, photo_shards, tmp_path):
    options = {
        "set": {"method.encoder": encoder, "data.image_size": 64, "data.eval_resize": 72},
        "data": photo_shards,
        "project": tmp_path,
        "fast_dev_run": True,
        "batch_size": 4,
        "report": False,
    }
    report = fasticcl.train(dataset, **options)
    phases = [record["phase"] for record in metrics(report.run)]
    assert phases == ["warmup", "interpolative", "rebalance"]
    assert report.rows["after"].keys() == {"val/top1", "val/many", "val/medium", "val/few"}
    assert report.split == "val"


def test_training_from_a_folder_of_images(tmp_path):
    for i, content in enumerate(photographs(8)):
        path = tmp_path / "images" / ("val" if i > 5 else "train") / "ab"[i % 2] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    fasticcl.convert("folder", tmp_path / "images", tmp_path / "shards")
    report = fasticcl.train(
        "folder",
        data=tmp_path / "shards",
        project=tmp_path,
        fast_dev_run=True,
        batch_size=3,
        set={"method.encoder": "resnet8", "data.image_size": 64},
    )
    assert report.rows["after"]["val/top1"] is not None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"batch_size": 999}, f"A batch of 999 is larger than the {IMAGES} training images"),
        ({"dataset": "inat2018"}, "contains shards of demo, not of inat2018"),
        ({"set": {"method.encoder": "resnet9"}}, "no encoder 'resnet9'. Did you mean resnet"),
        ({"set": {"data.eval_split": "val"}}, "have no split 'val', only train, test"),
    ],
)
def test_bad_input_is_one_sentence_and_leaves_no_run(train, tmp_path, options, sentence):
    with pytest.raises(UserError, match=sentence):
        train(**options)
    assert not (tmp_path / "demo").exists()


def test_existing_run_name_is_refused_and_the_run_kept(train_few):
    report = train_few(**SHORTEST)
    before = metrics(report.run)
    with pytest.raises(UserError, match=r"exists\. Choose another --name, or continue it with --resume"):
        train_few(**SHORTEST)
    assert metrics(report.run) == before


def test_default_run_names_are_numbered(tiny_shards, tmp_path):
    settings = {**SMALL, **TINY, "rebalance.epochs": 1}
    options = {"data": tiny_shards, "project": tmp_path, "batch_size": 20, "set": settings}
    options |= {"device": "cpu", "fast_dev_run": True}
    names = [fasticcl.train("demo", method=method, **options).run.name for method in (None, None, "ce")]
    assert names == ["trial-iccl-1", "trial-iccl-2", "trial-ce-1"]
    few = {**options, "fast_dev_run": False, "epochs": 1}
    names = [fasticcl.train("demo", **few).run.name for _ in range(2)]
    assert names == ["iccl-1", "iccl-2"]
    fasticcl.train("demo", **options)
    assert resume(tmp_path, name=None).run.name == "iccl-2"


def test_resume_refuses_other_settings_and_missing_runs(train_few, tmp_path):
    train_few(**SHORTEST)
    with pytest.raises(UserError, match="Leave out --epochs"):
        fasticcl.train("demo", project=tmp_path, resume=True, epochs=9)
    with pytest.raises(UserError, match="There is no run to resume"):
        fasticcl.train("inat2018", project=tmp_path, resume=True)


def test_changed_shards_are_detected(photo_source, tmp_path):
    options = {"data": tmp_path / "shards", "project": tmp_path, "name": "run", "report": False}
    small = {"method.encoder": "resnet8", "data.image_size": 32}
    convert(photo_source, tmp_path / "shards")
    run = fasticcl.train("folder", batch_size=4, fast_dev_run=True, set=small, **options).run
    shutil.rmtree(tmp_path / "shards")
    convert(
        replace(
            photo_source,
            splits={"train": photo_source.splits["train"][1:], "val": photo_source.splits["val"]},
        ),
        tmp_path / "shards",
    )
    for again in (
        lambda: fasticcl.evaluate(run),
        lambda: fasticcl.train("folder", project=tmp_path, name="run", resume=True),
    ):
        with pytest.raises(UserError, match=r"are not those that .* was trained on"):
            again()


def train_with_corrupt_image(photo_source, folder, split):
    """Train on photographs of which the first one in a split was damaged after the conversion."""
    convert(photo_source, folder / "shards")
    shard = folder / "shards" / split / "shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[512:600] = bytes(88)
    shard.write_bytes(content)
    options = {"data": folder / "shards", "project": folder, "batch_size": 21, "fast_dev_run": True}
    options |= {"report": False}
    return fasticcl.train("folder", set={"method.encoder": "resnet8", "data.image_size": 32}, **options)


def test_corrupt_training_image_is_replaced_and_counted(photo_source, tmp_path):
    report = train_with_corrupt_image(photo_source, tmp_path, "train")
    counted = [record["data/bad_samples"] for record in metrics(report.run) if "val/top1" in record]
    assert counted == [1, 1, 1]


def test_corrupt_evaluation_image_stops_the_run(photo_source, tmp_path):
    name = r"^val/shard-000000\.tar:512 000000000_val0\.jpg"
    with pytest.raises(TrainingFailed, match=f"{name}: damaged since the conversion. Convert .* again"):
        train_with_corrupt_image(photo_source, tmp_path, "val")


def test_all_evaluations_of_a_run_share_one_pipeline(train_few, monkeypatch):
    specs, build = [], graph.build
    monkeypatch.setattr(
        graph, "build", lambda feed, spec, options: specs.append(spec) or build(feed, spec, options)
    )
    report = train_few()
    # Training builds one pipeline for each of its three phases.
    assert len(specs) == 4
    fasticcl.evaluate(report.run)  # three networks
    assert len(specs) == 5


def test_only_a_full_run_compiles_its_evaluations(tiny_shards, monkeypatch):
    modes = []
    monkeypatch.setattr(trainer, "evaluate", lambda *arguments: modes.append(arguments[-1].mode))
    for fast_dev_run in (False, True):
        settings = {"data": {"dir": tiny_shards}, "engine": {"fast_dev_run": fast_dev_run}}
        config, machine = resolve("demo", options=settings), Machine(torch.device("cpu"), False, "on")
        prepared = trainer.PreparedRun(config, open_dataset(config), machine, *[None] * 5)
        prepared.evaluate(SimpleNamespace(network=None))
    assert modes == ["on", "off"]
