"""Runs on shards whose images were damaged after the conversion."""

import re

import pytest
from rich.console import Console

import fasticcl
from fasticcl.engine.loop import Loop
from fasticcl.errors import TrainingFailed
from tests.support.damaged_shards import COUNTS, flip_bit, for_each_damage, write_noisy_shards

BATCH = 10
STEPS = sum(COUNTS) // BATCH
SMALL = {
    "method.encoder": "resnet8",
    "data.image_size": 16,
    "data.eval_resize": 18,
    "engine.log_every": 1,
    "engine.report": False,
}


@pytest.fixture
def shards(tmp_path):
    return write_noisy_shards(tmp_path / "shards")


def train(folder, project, set=(), **options):
    settings = {**SMALL, "method.warmup_epochs": 1, "rebalance.epochs": 2, **dict(set)}
    options = {"batch_size": BATCH, "epochs": 3, "name": "run", **options}
    return fasticcl.train("folder", data=folder, project=project, device="cpu", set=settings, **options)


def bad_sample_counts(run):
    counts = re.findall(r'"data/bad_samples": (\d+)', (run / "metrics.jsonl").read_text())
    return [int(count) for count in counts]


@for_each_damage
def test_training_continues_with_a_warning_per_bad_image_and_counts_them(shards, tmp_path, damage, capsys):
    damage(shards, 0, 29)
    report = train(shards, tmp_path, console=Console())
    assert bad_sample_counts(report.run) == [2] * 5
    warnings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning")]
    assert len(warnings) == 2
    assert all("replaced by another image of its class" in line for line in warnings)


@for_each_damage
def test_interrupted_run_with_bad_images_is_bit_identical_after_resuming(
    shards, tmp_path, monkeypatch, damage
):
    damage(shards, 0, 14, 29)
    uninterrupted = train(shards, tmp_path, name="uninterrupted").run
    take_step, steps = Loop.take_step, 0

    def interrupt(self, *arguments):
        nonlocal steps
        take_step(self, *arguments)
        steps += 1
        if steps % 4 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(Loop, "take_step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(shards, tmp_path, save_every="1")
    while True:
        try:
            run = fasticcl.train("folder", project=tmp_path, name="run", resume=True).run
        except KeyboardInterrupt:
            continue
        break
    assert steps > 5 * STEPS
    names = ("model.safetensors", "results.csv")
    assert [(run / name).read_bytes() for name in names] == [
        (uninterrupted / name).read_bytes() for name in names
    ]
    assert bad_sample_counts(run) == bad_sample_counts(uninterrupted)


def test_run_with_too_many_bad_images_resumes_after_the_shards_are_repaired(shards, tmp_path):
    intact = train(shards, tmp_path, name="intact").run
    shard = shards / "train/shard-000000.tar"
    content = shard.read_bytes()
    flip_bit(shards, 0, 1, 2)
    with pytest.raises(TrainingFailed, match=r"images cannot be read, more than data\.max_bad_samples \(1\)"):
        train(shards, tmp_path, {"data.max_bad_samples": 1})
    shard.write_bytes(content)
    run = fasticcl.train("folder", project=tmp_path, name="run", resume=True).run
    assert (run / "model.safetensors").read_bytes() == (intact / "model.safetensors").read_bytes()
