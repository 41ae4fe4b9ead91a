"""A table of the paper from its plan to its files, with real runs on part of the demo data."""

import json
import shlex
import subprocess
import sys
import time

import pytest
import typer

import fasticcl
from fasticcl.cli.main import app
from fasticcl.engine.run.lock import is_locked
from fasticcl.errors import UserError
from fasticcl.reproduce import reproduction
from fasticcl.reproduce.estimate import Estimate
from fasticcl.reproduce.reproduction import command_line, parse_part, split_names
from fasticcl.reproduce.request import Request
from tests.support.forked_popen import forked_popen
from tests.support.processes import Child
from tests.support.small_runs import TINY, metrics

OPTIONS = {
    "rows": "ce,crt,iccl",
    "epochs": 6,
    "seeds": 1,
    "set": TINY | {"optim.batch_size": 20, "rebalance.epochs": 1, "method.encoder": "resnet8"},
    "device": "cpu",
}


def reproduce(shards, project, **options):
    """Reproduce three rows of Table 1, and fork the runs, which saves their imports."""

    def fork(command, *, stdin, **popen_options):
        assert stdin == subprocess.DEVNULL
        return forked_popen(command, **popen_options)

    subprocess.Popen = fork
    outcome = fasticcl.reproduce("table1", on=shards, project=project, **OPTIONS, **options)
    assert not outcome.failures
    return [str(job.folder) for job in outcome.plan.jobs]


@pytest.fixture(scope="module")
def whole(tiny_shards, tmp_path_factory):
    """The project of a table that was computed at once."""
    project = tmp_path_factory.mktemp("whole")
    Child(project / "log", reproduce, tiny_shards, project).result()
    return project


def accuracies(project):
    """Return the lines of the LaTeX table, without the comment that has the command."""
    lines = (project / "table1.tex").read_text().splitlines()
    return [line for line in lines if not line.startswith("%")]


def test_rows_that_share_a_first_stage_train_it_once(whole):
    commands = {
        log.stem: shlex.split(log.read_text().splitlines()[0])[2]
        for log in (whole / "logs/demo").glob("*.log")
    }
    assert sorted(commands.values()) == ["rebalance", "train", "train"]
    assert next(name for name, verb in commands.items() if verb == "rebalance").startswith("crt")
    files = {path.name for path in whole.iterdir()} - {"log", "logs", "demo"}
    assert files == {"table1.html", "table1.md", "table1.tex", "table1.json"}
    assert all(row in (whole / "table1.md").read_text() for row in ("CE", "cRT", "ICCL"))
    assert json.loads((whole / "table1.json").read_text())


def test_killed_and_continued_in_two_parts_gives_the_same_table(tiny_shards, whole, tmp_path):
    child = Child(tmp_path / "log", reproduce, tiny_shards, tmp_path, part="1/2")
    while not (started := [*tmp_path.glob("demo/*/results.csv")]):
        assert child.process.is_alive(), child.printed()
        time.sleep(0.01)
    assert child.kill()
    run = started[0].parent
    while is_locked(run):  # the run saves its state and ends
        time.sleep(0.01)
    assert (run / "last.pt").exists()
    assert not (run / "model.safetensors").exists()
    folders = []
    for part in ("1/2", "2/2"):
        folders += Child(tmp_path / part[0], reproduce, tiny_shards, tmp_path, part=part).result()
    assert len(folders) == len({*folders}) == 3
    for folder in map(str, tmp_path.glob("demo/*")):
        name = folder.rpartition("/")[2]
        assert metrics(tmp_path / "demo" / name) == metrics(whole / "demo" / name)
    assert accuracies(tmp_path) == accuracies(whole)
    log = tmp_path / "logs/demo" / f"{run.name}.log"
    assert log.read_text().count("$ fasticcl") == 2
    assert "--resume" in log.read_text()


def test_dry_run_writes_nothing(tiny_shards, tmp_path, monkeypatch):
    """The measurement of the time is replaced. It is tested in test_estimate.py."""

    def estimate(plan, jobs, console):  # noqa: ARG001
        return Estimate({job.folder: 5.0 for job in plan.jobs}, 15.0, jobs, "a machine", None)

    monkeypatch.setattr(reproduction, "estimate", estimate)
    outcome = fasticcl.reproduce("table1", on=tiny_shards, project=tmp_path / "runs", dry_run=True, **OPTIONS)
    assert outcome.result is None
    assert len(outcome.plan.jobs) == 3
    assert outcome.estimate.total == 15
    assert not (tmp_path / "runs").exists()


def test_command_line_makes_the_same_request(monkeypatch):
    calls = []

    def record(request, **options):
        calls.append((request, options))

    monkeypatch.setattr(reproduction, "reproduce_table", record)
    options = {
        "rows": ["ce", "iccl"],
        "seeds": 1,
        "recipe": "preset",
        "project": "p q",
        "set": ["optim.lr=0.1", "method.centroid_norm=l2", "optim.milestones=[0.5]"],
        "device": "cpu",
        "part": "1/2",
    }
    fasticcl.reproduce("table1", jobs=2, **options)
    request, _ = calls[0]
    line = command_line(request, 2)
    assert line.startswith(
        "fasticcl reproduce table1 --rows ce,iccl --seeds 1 --recipe preset --project 'p q' --set "
    )
    assert line.endswith(" --device cpu --jobs 2 --part 1/2")
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    with pytest.raises(AttributeError):  # there is no result to print
        typer.main.get_command(app)(standalone_mode=False)
    again, others = calls[1]
    assert again == request
    assert others["jobs"] == 2
    assert command_line(Request("table2"), None) == "fasticcl reproduce table2"


@pytest.mark.parametrize("text", ["4/3", "0/3", "3", "a/b", "1/", "-1/2", ""])
def test_part_that_does_not_exist_is_an_error(text):
    with pytest.raises(UserError, match="--part expects I/N"):
        parse_part(text)


def test_names_and_parts_are_parsed():
    assert split_names("ce, iccl") == split_names(["ce", "iccl,"]) == ("ce", "iccl")
    assert split_names(()) == ()
    assert (parse_part(None), parse_part("2/3")) == ((1, 1), (2, 3))
