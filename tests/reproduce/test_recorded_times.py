"""Times of steps from the metrics of runs."""

import json

import pytest

from fasticcl.bench.run_work import dataset_sizes, run_work
from fasticcl.report.run_history import RunHistory, read_history
from fasticcl.reproduce.recorded_times import is_same_machine, recorded_times
from fasticcl.resolve import configure
from fasticcl.system.hardware import cpu_model
from fasticcl.system.machine import choose_machine
from tests.support.small_runs import train_tiny


def record(phase, epoch, seconds, *, stage="representation", evaluated=True, **values):
    return {
        **{"stage": stage, "phase": phase, "epoch": epoch, "step": 3, "time/epoch_sec": seconds},
        **{"time/eval_pct": 20.0, "time/save_pct": 10.0, "val/top1": 50.0 if evaluated else None},
        **values,
    }


def history(shards, records, **environment):
    options = {"data": shards, "epochs": 6, "batch_size": 20, "device": "cpu"}
    config = configure("demo", set={"method.warmup_epochs": 3, "rebalance.epochs": 2}, **options)
    machine = choose_machine(config.engine).describe()
    start = {"machine": machine, "cpu": cpu_model(), "ranks": 1, **environment}
    return RunHistory(shards, config, records, [start])


def seconds_by_activity(times):
    return {kind.activity: time.seconds for kind, time in times.items()}


def test_times_are_medians_without_the_first_epoch_of_a_phase(tiny_shards):
    warmup = [record("warmup", 1 + n, seconds) for n, seconds in enumerate([99.0, 10.0, 30.0, 20.0])]
    mixed = [record("interpolative", 5, 99.0), record("interpolative", 6, 60.0, evaluated=False)]
    times = recorded_times([history(tiny_shards, warmup + mixed)])
    # 70 % of an epoch are its 3 steps, and 20 % are the evaluation of 30 images in batches of 20.
    expected = {
        "warmup": 20.0 * 0.7 / 3,
        "interpolative": 60.0 * 0.7 / 3,
        "evaluation": 20.0 * 0.2 / 1.5,
    }
    assert seconds_by_activity(times) == pytest.approx(expected)
    assert {time.source for time in times.values()} == {"recorded"}


def test_the_run_with_the_shortest_time_counts(tiny_shards):
    runs = [
        history(tiny_shards, [record("warmup", 1, 99.0), record("warmup", 2, seconds, evaluated=False)])
        for seconds in (30.0, 10.0, 20.0)
    ]
    assert seconds_by_activity(recorded_times(runs)) == pytest.approx({"warmup": 10.0 * 0.7 / 3})


@pytest.mark.parametrize(
    "environment",
    [
        {"cpu": "another"},
        {"cpu": None},
        {"ranks": 2},
        {"machine": "NVIDIA H100, bfloat16, compiled, torch 2"},
    ],
)
def test_runs_on_another_machine_do_not_count(tiny_shards, environment):
    records = [record("warmup", 1, 9.0), record("warmup", 2, 9.0)]
    assert is_same_machine(history(tiny_shards, records))
    other = history(tiny_shards, records, **environment)
    assert not is_same_machine(other)
    assert recorded_times([other]) == {}
    moved = history(tiny_shards, records)
    moved.environments.append(other.environments[0])
    assert not is_same_machine(moved)


def test_a_finished_run_tells_the_times_of_its_kinds(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, {"rebalance.epochs": 2}, epochs=4).run
    read = read_history(run)
    times = recorded_times([read])
    work = run_work(read.config, dataset_sizes(read.config), choose_machine(read.config.engine))
    # One epoch of warm-up is also the first one.
    assert set(times) == {part.kind for part in work if part.kind.activity != "warmup"}
    assert all(time.seconds > 0 for time in times.values())
    assert json.loads((run / "environment.jsonl").read_text())["cpu"] == cpu_model()
