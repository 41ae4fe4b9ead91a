"""Measured times of steps."""

import pytest

from fasticcl.bench.run_work import Work, dataset_sizes, run_work
from fasticcl.bench.step_times import StepTime, StepTimes, by_importance, measure_step_times
from fasticcl.resolve import configure
from fasticcl.system.machine import choose_machine

TINY = {
    "method.encoder": "resnet8",
    "data.image_size": 8,
    "data.crop_padding": 1,
    "rebalance.epochs": 1,
}


def tiny_work(shards, **options):
    values = {"data": shards, "epochs": 4, "batch_size": 20, "device": "cpu", "workers": 1} | options
    config = configure("demo", set={**TINY, **values.pop("set", {})}, **values)
    return run_work(config, dataset_sizes(config), choose_machine(config.engine))


def test_every_kind_is_measured_within_the_budget(tiny_shards, tmp_path):
    work, shown = tiny_work(tiny_shards), []
    times = measure_step_times(work, tmp_path, known={}, seconds=0.01, show_status=shown.append)
    assert {kind.activity for kind in times.known} == {"warmup", "interpolative", "rebalance", "evaluation"}
    assert all(time.seconds > 0 and time.source == "measured" for time in times.known.values())
    assert not any(time.synthetic or time.batch_size for time in times.known.values())
    assert times.seconds(work) == pytest.approx(sum(w.steps * times.known[w.kind].seconds for w in work))
    assert shown[0] == "measuring interpolative steps of resnet8 (1 of 4)"


def test_without_a_budget_one_kind_is_measured_and_the_others_are_derived(tiny_shards, tmp_path):
    work = tiny_work(tiny_shards)
    times = measure_step_times(work, tmp_path, known={}, seconds=0.01, budget=-1)
    ((kind, time),) = times.known.items()
    assert kind.activity == "interpolative"
    unit = time.seconds / 2  # two forward passes with gradient
    relative = {"warmup": 1, "interpolative": 2, "rebalance": 0.5, "evaluation": 0.5}
    expected = sum(part.steps * unit * relative[part.kind.activity] for part in work)
    assert times.seconds(work) == pytest.approx(expected)


def test_known_times_are_not_measured_and_translation_follows_its_cost(tiny_shards, tmp_path):
    work = tiny_work(tiny_shards, method="m2m")
    known = {part.kind: StepTime(3.0, part.cost, "recorded") for part in work}
    times = measure_step_times(work, tmp_path, known=known)
    assert times.known == known
    doubled = [Work(part.kind, part.steps, 2 * part.cost) for part in work]
    assert times.seconds(doubled) == pytest.approx(2 * times.seconds(work))
    assert times.seconds(work) == pytest.approx(sum(3.0 * part.steps for part in work))


def test_synthetic_images_replace_missing_shards(tmp_path):
    work = tiny_work(tmp_path / "none", method="m2m", set={"rebalance.epochs": 0})
    times = measure_step_times(work, tmp_path, known={}, seconds=0.01)
    assert all(time.synthetic for time in times.known.values())
    # Generated images have no class sizes, on which the translation depends.
    assert {kind.activity for kind in times.known} == {"warmup", "evaluation"}
    assert times.seconds(work) > 0


def test_a_kind_that_cannot_be_measured_is_named(tiny_shards, tmp_path):
    work = tiny_work(tiny_shards, set={"method.encoder": "resnet9"})
    times = measure_step_times(work, tmp_path, known={}, seconds=0.01)
    assert times.seconds(work) is None
    assert "resnet9" in next(iter(times.failures.values()))


def test_large_images_are_measured_on_a_cpu_with_small_batches(monkeypatch, tmp_path):
    measured = []

    def throughput(task, *, min_batches, **_):
        images = next(task())
        measured.append((images, min_batches))
        return 10.0

    monkeypatch.setattr("fasticcl.bench.step_times.throughput", throughput)
    options = {"batch_size": 32, "set": {"data.image_size": 40, "data.crop_padding": 4}}
    work = [part for part in tiny_work(tmp_path, **options) if part.kind.activity != "rebalance"]
    times = measure_step_times(work, tmp_path, known={})
    assert {time.batch_size for time in times.known.values()} == {4}
    assert measured == [(8, 2), (4, 2), (4, 2)]  # pairs, single images, evaluated images
    seconds = {kind.activity: time.seconds for kind, time in times.known.items()}
    assert seconds == {"interpolative": 6.4, "warmup": 3.2, "evaluation": 3.2}  # of 32 pairs and images


def test_times_of_another_network_are_not_used(tiny_shards):
    work = tiny_work(tiny_shards)
    other = tiny_work(tiny_shards, set={"method.encoder": "resnet14"})
    times = StepTimes({part.kind: StepTime(1.0, part.cost) for part in work})
    assert times.seconds(work) > 0
    assert times.seconds(other) is None


def test_kinds_are_ordered_by_their_total_cost_with_evaluations_last(tiny_shards):
    work = tiny_work(tiny_shards, epochs=8, set={"method.warmup_epochs": 7})
    assert [kind.activity for kind in by_importance(work)] == [
        "warmup",
        "interpolative",
        "rebalance",
        "evaluation",
    ]
