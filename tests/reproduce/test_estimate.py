"""Estimated times of plans."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fasticcl.bench.run_work import dataset_sizes, run_work
from fasticcl.bench.step_times import StepTime, StepTimes, by_importance
from fasticcl.engine.run.folder import RunFolder
from fasticcl.reproduce import estimate as module
from fasticcl.reproduce.estimate import Measuring, estimate, job_work, makespan
from fasticcl.reproduce.existing_runs import ExistingRun
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.plan import Plan
from fasticcl.reproduce.training import slots
from fasticcl.resolve import configure
from fasticcl.system.machine import choose_machine
from tests.support.small_runs import TINY, train_tiny

CONFIG = configure("demo")


def job(number, first=None, after=()):
    engine = CONFIG.engine.model_copy(update={"name": str(number)})
    folders = tuple(Path("runs/demo", str(other)) for other in after)
    first = None if first is None else Path("runs/demo", str(first))
    return Job(CONFIG.model_copy(update={"engine": engine}), (), first_stage=first, after=folders)


@st.composite
def dependent_jobs(draw):
    """Jobs that need some of those before them, and their seconds."""
    count = draw(st.integers(1, 7))
    needs = [draw(st.sets(st.integers(0, n - 1), max_size=2)) if n else set() for n in range(count)]
    jobs = [
        job(n, *([min(need)] if need else [None]), after=need - {min(need)} if need else ())
        for n, need in enumerate(needs)
    ]
    return jobs, draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)), needs


def second_by_second(seconds, needs, workers):
    """Simulate workers that take the first ready job, in whole seconds."""
    left, started, finished, now = list(seconds), set(), set(), 0
    while len(finished) < len(seconds):
        progress = True
        while progress:
            progress = False
            for n, need in enumerate(needs):
                if n not in started and need <= finished and len(started - finished) < workers:
                    started.add(n)
                    progress = True
            ended = {n for n in started - finished if left[n] == 0}
            finished |= ended
            progress |= bool(ended)
        if len(finished) == len(seconds):
            break
        for n in started - finished:
            left[n] -= 1
        now += 1
    return now


@settings(max_examples=150, deadline=None)
@given(dependent_jobs(), st.integers(1, 4))
def test_makespan_is_that_of_a_simulation(drawn, workers):
    jobs, seconds, needs = drawn
    times = {job.folder: float(time) for job, time in zip(jobs, seconds, strict=True)}
    span = makespan(jobs, times, workers)
    assert span == second_by_second(seconds, needs, workers)
    assert max(seconds) <= span <= sum(seconds)
    if workers == 1:
        assert span == sum(seconds)


def test_first_stages_precede_their_second_stages():
    jobs = [job(0), job(1, first=0), job(2, first=0), job(3)]
    times = dict(zip((each.folder for each in jobs), (10.0, 4.0, 4.0, 3.0), strict=True))
    assert makespan(jobs, times, 1) == 21
    assert makespan(jobs, times, 2) == 14  # job 3 beside the first stage, then both second stages
    assert makespan(jobs, times | {jobs[3].folder: None}, 9) == 14
    elsewhere = [job(1, first=0)]  # its first stage is not in this part of the plan
    assert makespan(elsewhere, times, 1) == 4


def tiny_config(shards, project, name="run"):
    settings = {**TINY, "method.encoder": "resnet8", "method.warmup_epochs": 1, "rebalance.epochs": 2}
    options = {"project": project, "name": name, "epochs": 4, "batch_size": 20, "device": "cpu", "workers": 1}
    return configure("demo", data=shards, set=settings, **options)


@pytest.fixture(scope="module")
def finished_run(tiny_shards, tmp_path_factory):
    settings = {"rebalance.epochs": 2, "engine.workers": 1}
    run = train_tiny(tiny_shards, tmp_path_factory.mktemp("runs"), settings, epochs=4).run
    return ExistingRun(run, RunFolder.open(run).config)


def after_epochs(run, count, project):
    """Return a copy of a run that was interrupted after some epochs."""
    folder = project / f"{count}"
    shutil.copytree(run.folder, folder)
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    ends = [number for number, line in enumerate(lines, 1) if "val/top1" in line]
    (folder / "metrics.jsonl").write_text("\n".join(lines[: [0, *ends][count]]))
    (folder / "model.safetensors").unlink()
    return ExistingRun(folder, run.config)


def steps(work):
    return {part.kind.activity: part.steps for part in work if part.kind.activity != "evaluation"}


def test_interrupted_runs_have_their_remaining_epochs(finished_run, tmp_path):
    runs = {count: after_epochs(finished_run, count, tmp_path) for count in (0, 1, 3, 5)}
    jobs = {count: Job(run.config, (), run) for count, run in runs.items()}
    assert steps(job_work(jobs[0])) == {"warmup": 3, "interpolative": 9, "rebalance": 6}
    assert steps(job_work(jobs[1])) == {"interpolative": 9, "rebalance": 6}
    assert steps(job_work(jobs[3])) == {"interpolative": 3, "rebalance": 6}
    assert steps(job_work(jobs[5])) == {"rebalance": 3}
    new = Job(finished_run.config, ())
    assert steps(job_work(new)) == steps(job_work(jobs[0]))
    assert steps(job_work(replace(new, first_stage=Path("elsewhere")))) == {"rebalance": 6}
    missing = finished_run.config.data.model_copy(update={"dataset": "folder", "dir": Path("none")})
    assert job_work(replace(new, config=finished_run.config.model_copy(update={"data": missing}))) is None


def test_times_of_a_plan_are_measured(tiny_shards, tmp_path, finished_run):
    new = Job(tiny_config(tiny_shards, tmp_path), ())
    engine = new.config.engine.model_copy(update={"name": "second"})
    second = Job(new.config.model_copy(update={"engine": engine}), (), first_stage=new.folder)
    unknown_data = new.config.data.model_copy(update={"dataset": "folder", "dir": Path("none")})
    unknown = Job(new.config.model_copy(update={"data": unknown_data}), ())
    plan = Plan((), [Job(finished_run.config, (), finished_run), new, second, unknown])
    result = estimate(plan, measuring=Measuring(0.01, start_up=lambda *_: 5.0))
    assert result.of(plan.jobs[0]) == 0
    assert result.of(new) > result.of(second) > 5
    assert result.of(unknown) is None
    assert result.total == pytest.approx(result.of(new) + result.of(second))  # one after the other
    assert result.jobs == 1
    assert "core" in result.device
    # The finished run has one warm-up epoch, which does not tell the time of others.
    assert result.notes[0] == (
        "4 kinds of steps: 1 measured end to end, 3 from the metrics of runs on this machine"
    )
    assert any("take 5 s (measured)" in note for note in result.notes)


def test_kinds_are_measured_on_shards_if_one_of_the_jobs_has_them(monkeypatch, tiny_shards, tmp_path):
    there = tiny_config(tiny_shards, tmp_path, "there")
    missing = tiny_config(tmp_path / "missing", tmp_path, "missing")
    measured = []

    def measure(work, *_, **__):
        measured.extend(by_importance(work))
        return StepTimes({})

    monkeypatch.setattr(module, "measure_step_times", measure)
    estimate(Plan((), [Job(missing, ()), Job(there, ())]), measuring=Measuring(start_up=lambda *_: None))
    assert {kind.config.data.dir for kind in measured} == {tiny_shards}


def test_nothing_is_measured_for_a_finished_plan(finished_run):
    plan = Plan((), [Job(finished_run.config, (), finished_run)])
    measuring = Measuring(start_up=lambda *_: pytest.fail("nothing is started"))
    result = estimate(plan, measuring=measuring)
    assert (result.total, result.start_up, result.notes) == (0, None, [])


def test_runs_side_by_side_are_slower_by_a_measured_factor(monkeypatch, tiny_shards, tmp_path, finished_run):
    def measured(work, _, *, known, **__):
        assert known == {}  # the finished run does not tell how many runs were trained beside it
        return StepTimes({part.kind: StepTime(2.0, part.cost) for part in work})

    def side_by_side(kind, _, environments, workers):
        assert kind.activity == "warmup"  # the first of the measured kinds
        assert (len(environments), workers) == (2, 1)
        return 3.0

    monkeypatch.setattr(module, "measure_step_times", measured)
    monkeypatch.setattr(slots, "usable_cores", lambda: 3)
    new = [Job(tiny_config(tiny_shards, tmp_path, name), ()) for name in ("one", "other")]
    plan = Plan((), [Job(finished_run.config, (), finished_run), *new])
    result = estimate(plan, 3, measuring=Measuring(start_up=lambda *_: 5.0, side_by_side=side_by_side))
    # 12 steps of the first stage, 6 of the second, and 6 evaluations of 30 images in batches of 20.
    expected = 2.0 * (12 + 6 + 6 * 1.5) * 1.5 + 5
    assert [result.of(job) for job in new] == pytest.approx([expected] * 2)
    assert result.total == pytest.approx(expected)
    assert result.slowdown == 1.5
    assert any("a step takes 1.5 times as long as alone" in note for note in result.notes)
    failed = estimate(plan, 3, measuring=Measuring(start_up=lambda *_: None, side_by_side=lambda *_: None))
    assert failed.total == pytest.approx(2.0 * (12 + 6 + 6 * 1.5))
    assert any("assumed not to slow one another" in note for note in failed.notes)


def test_work_of_a_new_job_is_that_of_its_configuration(tiny_shards, tmp_path):
    config = tiny_config(tiny_shards, tmp_path)
    assert job_work(Job(config, ())) == run_work(config, dataset_sizes(config), choose_machine(config.engine))
