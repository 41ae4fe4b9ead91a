"""A run folder that lies elsewhere now: every verb takes it where it is, and names that place."""

import json
import os
import shlex
import shutil
import signal
import sys

import numpy as np
import pytest

import fasticcl
from fasticcl.cli.main import main
from fasticcl.errors import Stopped, UserError
from tests.support.images import encode, noise
from tests.support.small_runs import differences, start_tiny, watch


@pytest.fixture(scope="module")
def undisturbed(tiny_shards, tmp_path_factory):
    """The report of a run that stayed where it was."""
    return start_tiny(tiny_shards, tmp_path_factory.mktemp("undisturbed"))


@pytest.fixture(params=["demo/mine", "mine"], ids=["in a dataset's folder", "anywhere"])
def moved(request, undisturbed, tmp_path):
    """The run by its new place; there is nothing where it was made."""
    project = undisturbed.run.parent.parent
    aside = project.rename(project.with_name("aside"))
    yield shutil.copytree(aside / "demo/run", tmp_path / "new place" / request.param)
    assert not project.exists(), "something was written where the run had been"
    aside.rename(project)


def test_it_is_evaluated(moved, undisturbed):
    found = fasticcl.evaluate(moved)
    assert (found.run, found.rows) == (moved, undisturbed.rows)


def test_it_names_classes_and_is_reported(moved, tmp_path):
    (tmp_path / "picture.png").write_bytes(encode(noise(np.random.default_rng(0), 12, 10), "PNG"))
    (row,) = fasticcl.predict(moved, [tmp_path / "picture.png"], topk=1)
    assert row.error is None
    assert fasticcl.report(moved) == moved / "report.html"
    assert "mine" in (moved / "report.html").read_text()


def test_it_is_swept_and_the_command_leads_to_it(moved):
    swept = fasticcl.sweep(moved, over={"rebalance.gamma": [0, 1]})
    assert swept.folder == moved / "sweep-1"
    assert json.loads((swept.folder / "sweep.json").read_text())["run"] == str(moved)
    assert swept.best is None or shlex.split(swept.command)[:3] == ["fasticcl", "rebalance", str(moved)]


def stopped_at(step, call):
    """Stop a training after so many steps and return what it says to go on with."""
    with pytest.MonkeyPatch.context() as patched:
        watch(patched, lambda count: count == step and os.kill(os.getpid(), signal.SIGTERM))
        with pytest.raises(Stopped) as stopped:
            call()
    return stopped.value.command


def type_in(command):
    """Call a command line as a shell would; returns the exit code."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as left:
            main()
    return left.value.code


def test_stopped_it_goes_on_there_by_the_command_that_it_names(undisturbed, tiny_shards, tmp_path):
    first, second = tmp_path / "old place", tmp_path / "new place"
    command = stopped_at(2, lambda: start_tiny(tiny_shards, first))
    assert command == f"fasticcl train demo --project '{first}' --name run --resume"
    second.mkdir()
    shutil.move(first / "demo", second / "demo")
    (second / "demo/run").rename(second / "demo/mine")
    with pytest.raises(UserError) as refused:
        fasticcl.evaluate(second / "demo/mine")
    command = str(refused.value).partition("Continue it with: ")[2]
    assert command == f"fasticcl train demo --project '{second}' --name mine --resume"
    assert stopped_at(4, lambda: fasticcl.train("demo", project=second, resume=True)) == command
    assert type_in(command) == 0
    assert not [*first.iterdir()]
    assert differences(second / "demo/mine", undisturbed.run) == []


@pytest.fixture(scope="module")
def begun(tiny_shards, tmp_path_factory):
    """A folder in which a run was begun and stopped, in runs, as is the default."""
    folder = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        command = stopped_at(2, lambda: start_tiny(tiny_shards, "runs"))
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
def test_the_command_leads_there_from_where_one_is(begun, monkeypatch, here, folder, project):
    monkeypatch.chdir(begun / here)
    with pytest.raises(UserError) as refused:
        fasticcl.evaluate(folder)
    command = f"fasticcl train demo {project.format(begun)}--name run --resume"
    assert str(refused.value) == f"{folder} is not finished. Continue it with: {command}"
    with pytest.raises(UserError) as refused:
        fasticcl.export(folder)
    assert str(refused.value) == f"There are no finished weights in {folder}. Continue it with: {command}"
