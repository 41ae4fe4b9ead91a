"""Rows of benchmarks/gpu.py: deadline, failures, crashes and hangs of the measuring process, targets."""

import importlib
import os
import sys
import time
import tomllib
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# Measures the rows without a line. A row is the name of a way to end: "ok" writes a line.
WORKER = """
import os, signal, sys, time
from pathlib import Path
from _gpu.rows import Rows, read_rows
file, plan = Path(sys.argv[1]), sys.argv[2:]
done = [line["row"] for line in read_rows(file)]
rows = Rows(file, 100, began=0)
if not done:
    rows.write("header", "", {"plan": [["part", row, 0] for row in plan]})
for row in plan:
    if row not in done:
        if row == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if row == "hang":
            time.sleep(60)
        if row == "broken device":
            rows.write("part", row, {"failed": "broken"})
            os._exit(75)
        rows.write("part", row, {"seconds": 1, "pid": os.getpid()})
"""


class Clock:
    """A clock that only moves when a row is measured."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def modules(monkeypatch):
    """Import a module of benchmarks/_gpu."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return lambda name: importlib.import_module(f"_gpu.{name}")


@pytest.fixture
def run(modules, tmp_path):
    """Measure rows, given as name, estimate, duration or exception, and kind. Return the lines."""

    def call(*planned, budget=100, done=(), works=lambda: True):
        rows, clock = modules("rows"), Clock()

        def measurement(duration):
            def measure():
                clock.now += duration if isinstance(duration, int) else 1
                if isinstance(duration, Exception):
                    raise duration
                return {"value": 7}

            return measure

        plan = [
            ("part", rows.Row(name, estimate, measurement(duration), kind))
            for name, estimate, duration, kind in planned
        ]
        file = tmp_path / "gpu.jsonl"
        modules("worker").measure(plan, rows.Rows(file, budget, clock), done, works)
        assert plan == []
        return {line["row"]: line for line in rows.read_rows(file)}

    return call


@pytest.fixture
def supervise(modules, tmp_path, monkeypatch):
    """Supervise the worker above, which measures rows with these names. Return the lines."""

    def call(*plan):
        supervisor = modules("supervisor")
        monkeypatch.setattr(supervisor, "_POLL", 0.01)
        monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
        file = tmp_path / "gpu.jsonl"
        task = supervisor.Task(file, tmp_path, "cpu", True, (), None, 100.0, time.monotonic())
        supervisor.supervise([sys.executable, "-c", WORKER, str(file), *plan], task)
        return modules("rows").read_rows(file)

    return call


def test_rows_that_would_end_after_the_deadline_are_left_out(run):
    lines = run(("first", 40, 70, ""), ("too long", 30, 1, ""), ("fits", 29, 1, ""), budget=100)
    assert lines["first"]["seconds"] == 70
    assert lines["too long"]["left_out"] == "about 30 s"
    assert lines["fits"]["value"] == 7


def test_a_similar_row_gives_a_better_estimate_than_the_constant(run):
    rows = [("slow", 5, 60, "a"), ("similar", 5, 1, "a"), ("other", 5, 1, "b")]
    lines = run(*rows, budget=100)
    assert lines["similar"]["left_out"] == "about 60 s"
    assert "value" in lines["other"]


def test_a_failed_row_is_reported_and_the_others_are_measured(run):
    lines = run(("a", 1, ValueError("no\ndecoder"), ""), ("b", 1, 1, ""))
    assert lines["a"]["failed"] == "ValueError: no"
    assert lines["b"]["value"] == 7


def test_rows_of_an_earlier_process_are_not_measured_again(run):
    assert [*run(("a", 1, 1, ""), ("b", 1, 1, ""), done={("part", "a")})] == ["b"]


def test_a_broken_device_ends_the_process_after_the_line(run, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    lines = run(("a", 1, RuntimeError("CUDA error"), ""), works=lambda: False)
    assert lines["a"]["failed"] == "RuntimeError: CUDA error"
    assert ended == [75]


def test_another_process_continues_after_a_crash(supervise):
    _, first, crash, last = supervise("first", "crash", "last")
    assert crash["failed"] == "the process ended with SIGSEGV"
    assert last["seconds"] == 1
    assert first["pid"] != last["pid"]


def test_another_process_continues_after_a_broken_device(supervise):
    _, broken, last = supervise("broken device", "last")
    assert broken["failed"] == "broken"
    assert "pid" in last


def test_a_row_that_hangs_is_killed_and_the_next_one_measured(supervise, modules, monkeypatch):
    monkeypatch.setattr(modules("supervisor"), "_PATIENCE", 3.0)  # the last row needs a new process
    _, hang, last = supervise("hang", "last")
    assert hang["failed"] == "no result after 3 s"
    assert "pid" in last


def test_the_row_in_progress_ends_at_the_deadline(modules, tmp_path):
    supervisor, file = modules("supervisor"), tmp_path / "gpu.jsonl"
    modules("rows").Rows(file, 1).write("header", "", {"plan": [["part", "slow", 60]]})
    task = supervisor.Task(file, tmp_path, "cpu", True, (), None, 100.0, time.monotonic() - 100)
    command = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert supervisor.watch(command, task) == ("stopped at the deadline", None)


def test_an_incomplete_line_is_ignored_and_does_not_damage_the_next(modules, tmp_path):
    rows, file = modules("rows"), tmp_path / "gpu.jsonl"
    rows.Rows(file, 1, Clock()).write("part", "a", {})
    file.write_text(file.read_text() + '{"part": "pa')
    rows.Rows(file, 1, Clock(), began=0).write("part", "b", {})
    assert [line["row"] for line in rows.read_rows(file)] == ["a", "b"]


def test_an_earlier_file_is_renamed(modules, tmp_path):
    rows, file = modules("rows"), tmp_path / "gpu.jsonl"
    for name in "abc":
        rows.Rows(file, 1, Clock()).write("part", name, {})
    files = (tmp_path / "gpu-1.jsonl", tmp_path / "gpu-2.jsonl", file)
    assert [line["row"] for each in files for line in rows.read_rows(each)] == ["a", "b", "c"]


def header(device="gpu", small=False):
    plan = [["resnet50", f"end to end, {phase}", 1] for phase in ("interpolative", "warmup")]
    fields = {"device": device, "small": small, "whole_images": False, "hardware": {"gpu": "H100"}}
    return {"part": "header", "row": "", "at": 0, "plan": plan, **fields}


def spread(value):
    return {"median": value, "min": value, "max": value}


def training(loader):
    figures = {"end to end, images/s": 3000.0, "end to end / step": 0.96, "loader / step": loader}
    row = {"part": "resnet50", "row": "end to end, interpolative", "at": 9}
    return row | {name: spread(value) for name, value in figures.items()}


def test_targets_are_met_missed_or_unmeasured(modules):
    cifar = {"part": "cifar", "row": "seed 0", "at": 9, "wall, s": 90.0}
    result = modules("summary").summarize([header(), training(3.1), cifar])
    verdicts = [target["result"] for target in result["targets"]]
    assert verdicts == ["met", "missed", "met", *["unmeasured"] * 4, "missed"]
    assert result["left_out"] == ["resnet50: end to end, warmup"]
    page = modules("summary").markdown(result)
    assert (
        "| ResNet-50, interpolative: end to end / step on a synthetic batch | at least 0.97 | 0.96 | missed |"
        in page
    )
    assert "- resnet50: end to end, warmup\n" in page


@pytest.mark.parametrize(("stopped", "verdict"), [(120.0, "missed"), (60.0, "unmeasured")])
def test_a_run_stopped_after_the_target_misses_it(modules, stopped, verdict):
    line = {"part": "cifar", "row": "seed 0", "at": 9, "failed": "not finished", "stopped after, s": stopped}
    assert modules("summary").summarize([header(), line])["targets"][-1]["result"] == verdict


def test_a_small_run_measures_no_target(modules):
    result = modules("summary").summarize([header("cpu", small=True), training(3.1)])
    assert {target["result"] for target in result["targets"]} == {"unmeasured"}


def test_cifar_is_trained_with_the_unmodified_preset(modules, run_cli, tmp_path):
    bench = modules("bench")
    arguments = modules("cifar").arguments(bench.Bench(bench.FULL, "cpu", tmp_path, tmp_path / "shards"))
    _, own, _ = run_cli("train", *arguments, "--print-config")
    _, preset, _ = run_cli("train", "cifar100-lt", "--print-config")
    own, preset = tomllib.loads(own), tomllib.loads(preset)
    changed = {key for table in own for key, value in own[table].items() if preset[table].get(key) != value}
    assert changed <= {"dir", "device", "project", "name", "report"}


def test_whole_images_reach_every_part(modules, run_cli, tmp_path):
    bench = modules("bench")
    small = bench.Bench(bench.SMALL, "cpu", tmp_path, tmp_path / "shards", whole_images=True)
    assert not small.data(tmp_path).decode_regions
    for preset in ("imagenet-lt", "cifar100-lt"):
        assert not small.workload(preset, "resnet8", 2).config.data.decode_regions
    _, output, _ = run_cli("train", *modules("cifar").arguments(small), "--print-config")
    assert tomllib.loads(output)["data"]["decode_regions"] is False
    task = modules("supervisor").Task(tmp_path, tmp_path, "cpu", True, (), None, 1, 0, whole_images=True)
    assert modules("worker").open_bench(task, lambda: 1.0).whole_images


RESULTS = "stage,epoch,val/top1,val/many,val/medium,val/few\\nrepresentation,7,1,2,3,\\n"
TRAIN = f"from pathlib import Path; import sys, time; Path(sys.argv[2]).write_text('{RESULTS}'); "


@pytest.mark.parametrize("rest", ["", "time.sleep(60)", "sys.exit('no memory')"])
def test_cifar_reports_time_and_accuracies_or_the_reason(modules, monkeypatch, tmp_path, rest):
    cifar, file = modules("cifar"), tmp_path / "results.csv"
    monkeypatch.setattr(cifar, "_RUN", TRAIN + rest)
    figures = cifar.run([str(file)], file, 1.0 if "sleep" in rest else 60.0)
    if "exit" in rest:
        assert figures == {"failed": "exit code 1: no memory"}
        return
    assert figures["representation, epoch"] == 7
    assert figures["representation, medium"] == 3
    assert "representation, few" not in figures
    if rest:
        assert figures["failed"] == "not finished after 1 s"
        assert figures["stopped after, s"] == 1
    else:
        assert 0 <= figures["wall, s"] < 60
