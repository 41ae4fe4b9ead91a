"""The printed form of a plan."""

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.lock import lock_run
from fasticcl.paper.table import PaperColumn, PaperRow
from fasticcl.reproduce.cell import Cell
from fasticcl.reproduce.dry_run import (
    PlanLine,
    as_dict,
    format_seconds,
    plan_lines,
    plan_table,
    state,
    summary,
    trains,
)
from fasticcl.reproduce.estimate import Estimate
from fasticcl.reproduce.existing_runs import ExistingRun
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.resolve import configure

COLUMN = PaperColumn("demo", "Demo", "demo")


def job(method, seed=0, **options):
    config = configure("demo", method=method, seed=seed, name=f"{method}-s{seed}", epochs=60)
    row = PaperRow(method, method.upper(), method, {})
    return Job(config, (Cell(row, COLUMN, config, config),), **options)


@pytest.fixture(autouse=True)
def empty_project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def with_run(job, *stages, finished=False):
    """Return a job with a run that has recorded epochs of some stages."""
    shutil.rmtree(job.folder, ignore_errors=True)
    folder = RunFolder.create(job.config).path
    records = [
        {"stage": stage, "phase": "warmup", "epoch": epoch + 1, "val/top1": 1.0}
        for stage, count in stages
        for epoch in range(count)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if finished:
        (folder / "model.safetensors").touch()
    return replace(job, run=ExistingRun(folder, job.config))


def estimated(jobs, seconds=3600.0, **values):
    remaining = {job.folder: 0.0 if job.finished else seconds for job in jobs}
    fields = {"total": 9.4 * 3600, "jobs": 1, "device": "2 cores of CPU", "start_up": 9.0} | values
    return Estimate(remaining, **fields)


def printed(plan, estimate):
    console = Console(width=80, file=io.StringIO())
    console.print(plan_table(plan, estimate))
    return console.file.getvalue()


def test_states_of_runs():
    new = job("iccl")
    assert state(new) == "new"
    assert state(with_run(new, ("representation", 11))) == "resumes at epoch 12 of 60"
    assert state(with_run(new, ("representation", 60), ("rebalancing", 3))) == (
        "resumes at second stage, epoch 4 of 10"
    )
    assert state(with_run(new, ("representation", 60), ("rebalancing", 10), finished=True)) == "finished"
    unrecorded = with_run(new)
    assert state(unrecorded) == "resumes at epoch 1 of 60"
    assert state(with_run(job("m2m"), ("seed", 60), ("representation", 1))) == "resumes at epoch 2 of 60"
    assert state(with_run(job("m2m"), ("seed", 9))) == "resumes at seed network, epoch 10 of 60"
    assert state(with_run(job("ncm"), ("representation", 60))) == "resumes at its end"
    with lock_run(new.folder):
        assert state(replace(new, run=ExistingRun(new.folder, new.config))) == "running"
    data = new.config.data.model_copy(update={"dataset": "folder", "dir": Path("none")})
    assert state(replace(new, config=new.config.model_copy(update={"data": data}))) == "needs data"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (0, "0 s"),
        (89, "89 s"),
        (91, "2 min"),
        (5399, "90 min"),
        (5400, "1.5 h"),
        (33840, "9.4 h"),
    ],
)
def test_durations_have_a_suitable_unit(seconds, text):
    assert format_seconds(seconds) == text
    assert format_seconds(72 * 3600) == "3.0 d"
    assert format_seconds(99.9 * 86400) == "99.9 d"
    assert format_seconds(99.96 * 86400) == "100 d"
    assert format_seconds(17427.3 * 86400) == "17,427 d"


def test_summary_counts_runs_and_their_time():
    finished = with_run(job("ce"), ("representation", 60), finished=True)
    plan = Plan((), [finished, job("iccl"), job("iccl", 1)], ["cifar10-lt-10: no shards"])
    estimate = estimated(plan.jobs, notes=["4 kinds of steps: 4 measured end to end"])
    assert [*plan_lines(plan, estimate)] == [
        "3 runs, 1 finished, 2 to train: 9.4 h on 2 cores of CPU",
        "note     4 kinds of steps: 4 measured end to end",
        "problem  cifar10-lt-10: no shards",
    ]
    side_by_side = summary(plan, replace(estimate, jobs=2), part=(3, 8))
    assert side_by_side == (
        "part 3 of 8: 3 runs, 1 finished, 2 to train: 9.4 h on 2 cores of CPU, 2 runs side by side"
    )
    assert summary(Plan((), [finished]), estimate) == "1 run, 1 finished, nothing to train"
    partly = replace(estimate, seconds={**estimate.seconds, plan.jobs[2].folder: None})
    assert summary(plan, partly).endswith(
        "2 to train: 9.4 h on 2 cores of CPU, without 1 run of unknown time"
    )
    unknown = estimated(plan.jobs, seconds=None)
    assert "2 to train: ? on 2 cores" in summary(plan, unknown)


def test_each_run_has_a_line_in_80_columns():
    first = job("crt")
    second = replace(job("lws"), first_stage=first.folder)
    text = printed(Plan((), [first, second]), estimated([first, second]))
    assert max(map(len, text.splitlines())) <= 80
    assert "demo/crt-s0" in text
    assert text.count("60 min") == 2
    assert "run 1" in text
    assert trains(second, {first.folder: 1}) == "LWS: second stage of run 1"
    assert trains(second, {}) == "LWS: second stage of crt-s0"
    assert trains(first, {}) == "CRT"


def test_seeds_of_a_large_plan_share_a_line():
    methods = [f"m{number}" for number in range(15)]
    jobs = []
    for number, method in enumerate(methods):
        for seed in range(3):
            config = configure("demo", seed=seed, name=f"{method}-s{seed}", epochs=60 + number)
            row = PaperRow(method, method.upper(), "iccl", {})
            jobs.append(Job(config, (Cell(row, COLUMN, config, config),)))
    jobs[1] = with_run(jobs[1], ("representation", 60), ("rebalancing", 10), finished=True)
    text = printed(Plan((), jobs), estimated(jobs))
    assert text.count("demo/m") == 15
    assert "demo/m3-s0...s2" in text
    assert "1 finished" in " ".join(text.split())
    assert "2.0 h" in text  # the two other seeds
    assert text.count("3.0 h") == 14


def test_states_of_several_runs_are_plural():
    jobs = [job("ce"), job("ce", 1)]
    data = jobs[0].config.data.model_copy(update={"dataset": "folder", "dir": Path("none")})
    without = [replace(each, config=each.config.model_copy(update={"data": data})) for each in jobs]
    assert PlanLine(without).state == "2 need data"
    assert PlanLine([jobs[0], without[1]]).state == "1 new, 1 needs data"
    interrupted = [with_run(each, ("representation", 11)) for each in jobs]
    assert PlanLine(interrupted).state == "2 resume at epoch 12 of 60"


def test_plan_as_a_dictionary():
    first = job("crt", 1)
    second = replace(job("lws", 1), first_stage=first.folder)
    plan = Plan((), [first, second], ["a problem"])
    values = as_dict(plan, estimated(plan.jobs, notes=["a note"]), part=(1, 2))
    assert values == {
        "part": [1, 2],
        "runs": [
            {
                "run": "runs/demo/crt-s1",
                "seed": 1,
                "rows": ["crt"],
                "columns": ["demo"],
                "first_stage": None,
                "state": "new",
                "seconds": 3600.0,
            },
            {
                "run": "runs/demo/lws-s1",
                "seed": 1,
                "rows": ["lws"],
                "columns": ["demo"],
                "first_stage": "runs/demo/crt-s1",
                "state": "new",
                "seconds": 3600.0,
            },
        ],
        "seconds": 9.4 * 3600,
        "jobs": 1,
        "device": "2 cores of CPU",
        "start_up_seconds": 9.0,
        "notes": ["a note"],
        "problems": ["a problem"],
    }
