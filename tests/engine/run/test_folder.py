"""Tests of run folders: runs that were moved, names of new runs, and suggestions for missing runs."""

import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import fasticcl
from fasticcl.cli.main import main
from fasticcl.engine.run.folder import free_name, nearby_runs
from fasticcl.errors import Stopped, UserError
from tests.support.images import encode, noise
from tests.support.small_runs import differences, record_steps, train_tiny


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    """The report of a run at its original path."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(params=["demo/mine", "mine"], ids=["in a dataset's folder", "anywhere"])
def moved(request, undisturbed, tmp_path):
    """The new path of the run. Its original path does not exist."""
    project = undisturbed.run.parent.parent
    aside = project.rename(project.with_name("aside"))
    yield shutil.copytree(aside / "demo/run", tmp_path / "new place" / request.param)
    assert not project.exists(), "something was written to the original path"
    aside.rename(project)


def test_evaluate_reads_a_moved_run(moved, undisturbed):
    found = fasticcl.evaluate(moved)
    assert (found.run, found.rows) == (moved, undisturbed.rows)


def test_predict_and_report_read_a_moved_run(moved, tmp_path):
    (tmp_path / "image.png").write_bytes(encode(noise(np.random.default_rng(0), 12, 10), "PNG"))
    (row,) = fasticcl.predict(moved, [tmp_path / "image.png"], topk=1)
    assert row.error is None
    assert fasticcl.report(moved) == moved / "report.html"
    assert "mine" in (moved / "report.html").read_text()


def test_sweep_uses_the_new_path_of_a_moved_run(moved):
    swept = fasticcl.sweep(moved, over={"rebalance.gamma": [0, 1]})
    assert swept.folder == moved / "sweep-1"
    assert json.loads((swept.folder / "sweep.json").read_text())["run"] == str(moved)
    assert swept.best is None or shlex.split(swept.command)[:3] == ["fasticcl", "rebalance", str(moved)]


def stopped_at(step, call):
    """Stop training after a number of steps and return the resume command."""
    with pytest.MonkeyPatch.context() as patched:
        record_steps(patched, lambda count: count == step and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped) as stopped:
            call()
    return stopped.value.command


def run_command(command):
    """Run a command line and return its exit code."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as left:
            main()
    return left.value.code


def test_resume_command_of_a_moved_run_uses_its_new_path(undisturbed, tiny_shards, tmp_path):
    first, second = tmp_path / "old place", tmp_path / "new place"
    command = stopped_at(2, lambda: train_tiny(tiny_shards, first))
    assert command == f"fasticcl train demo --project '{first}' --name run --resume"
    second.mkdir()
    shutil.move(first / "demo", second / "demo")
    (second / "demo/run").rename(second / "demo/mine")
    with pytest.raises(UserError) as refused:
        fasticcl.evaluate(second / "demo/mine")
    command = str(refused.value).partition("Continue it with: ")[2]
    assert command == f"fasticcl train demo --project '{second}' --name mine --resume"
    assert stopped_at(4, lambda: fasticcl.train("demo", project=second, resume=True)) == command
    assert run_command(command) == 0
    assert not [*first.iterdir()]
    assert differences(second / "demo/mine", undisturbed.run) == []


@pytest.fixture(scope="module")
def stopped_run(tiny_shards, tmp_path_factory):
    """A working directory with a stopped run in ``runs``, the default project."""
    folder = tmp_path_factory.mktemp("stopped_run")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        command = stopped_at(2, lambda: train_tiny(tiny_shards, "runs"))
    assert command == "fasticcl train demo --name run --resume"
    return folder


@pytest.mark.parametrize(
    ("here", "folder", "project"),
    [
        ("", "runs/demo/run", ""),
        ("runs/demo", "run", "--project {}/runs "),
        ("runs/demo/run", ".", "--project {}/runs "),
    ],
)
def test_resume_command_works_from_any_working_directory(stopped_run, monkeypatch, here, folder, project):
    monkeypatch.chdir(stopped_run / here)
    with pytest.raises(UserError) as refused:
        fasticcl.evaluate(folder)
    command = f"fasticcl train demo {project.format(stopped_run)}--name run --resume"
    assert str(refused.value) == f"{folder} is not finished. Continue it with: {command}"
    with pytest.raises(UserError) as refused:
        fasticcl.export(folder)
    assert str(refused.value) == f"There are no finished weights in {folder}. Continue it with: {command}"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create_run(folder, second, *files):
    """Create an empty run folder whose files have a given modification time."""
    folder.mkdir(parents=True)
    for name in ("environment.jsonl", *files):
        (folder / name).touch()
        os.utime(folder / name, (second, second))


@pytest.fixture
def runs(here):
    """Seven runs of demo, of which b is the newest and two are finished, and one run of another dataset."""
    for second, name in enumerate("hgfedcb"):
        create_run(here / "runs/demo" / name, second, *["model.safetensors"] * (name in "ce"))
    create_run(here / "runs/inat2018/other run", 99)


NEWEST = "Nearby runs, newest first: runs/demo/b, runs/demo/c, runs/demo/d, runs/demo/e, runs/demo/f."
CALLS = {
    "evaluate": fasticcl.evaluate,
    "report": fasticcl.report,
    "rebalance": fasticcl.rebalance,
    "sweep": lambda run: fasticcl.sweep(run, over={"rebalance.gamma": [0, 1]}),
    "resume": lambda run: fasticcl.train("demo", name=os.path.basename(run), resume=True),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.usefixtures("runs")
def test_error_for_a_missing_run_lists_the_newest_runs(call):
    with pytest.raises(UserError) as refused:
        CALLS[call]("runs/demo/a")
    assert str(refused.value) == f"runs/demo/a is not a run folder: it has no config.toml. {NEWEST}"


@pytest.mark.parametrize("call", [lambda model: fasticcl.predict(model, "x.png"), fasticcl.export])
@pytest.mark.usefixtures("runs")
def test_error_for_a_missing_model_lists_runs_with_weights(here, call):
    (here / "x.png").touch()
    with pytest.raises(UserError) as refused:
        call("runs/demo/a")
    assert str(refused.value).endswith(" Nearby runs, newest first: runs/demo/c, runs/demo/e.")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("runs/inat2018/a", "'runs/inat2018/other run'"),  # only its siblings
        ("runs/imagenet-lt/a", "'runs/inat2018/other run', runs/demo/b"),
        ("runs/inat2018", "'runs/inat2018/other run'"),
        ("runs", "'runs/inat2018/other run', runs/demo/b"),
        ("a", "'runs/inat2018/other run', runs/demo/b"),
        ("no/such/place", "'runs/inat2018/other run', runs/demo/b"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_nearest_runs_are_listed_with_shell_quoting(path, named):
    sentence = nearby_runs(Path(path))
    assert sentence.startswith(f" Nearby runs, newest first: {named}")


def test_no_nearby_runs_gives_an_empty_sentence(here):
    (here / "runs/demo/settings").mkdir(parents=True)
    (here / "runs/demo/settings/config.toml").touch()  # of another program
    assert nearby_runs(here / "runs/demo/a") == ""


def test_free_name_has_the_smallest_unused_number(here):
    for number in (1, 2, 4):
        (here / f"x-{number}").mkdir()
    assert free_name(here, "x") == "x-3"
