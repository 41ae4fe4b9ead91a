"""Runs that are named where a person has named none."""

import os
from pathlib import Path

import pytest

import fasticcl
from fasticcl.engine.run.folder import free_name, nearby_runs
from fasticcl.errors import UserError


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def begun(folder, second, *files):
    """A run that was started at a second, as far as its folder tells."""
    folder.mkdir(parents=True)
    for name in ("environment.jsonl", *files):
        (folder / name).touch()
        os.utime(folder / name, (second, second))


@pytest.fixture
def runs(here):
    """Seven runs of the demonstration, b the newest, two of them finished, and one of another dataset."""
    for second, name in enumerate("hgfedcb"):
        begun(here / "runs/demo" / name, second, *["model.safetensors"] * (name in "ce"))
    begun(here / "runs/inat2018/other run", 99)


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
def test_a_run_that_is_not_there_leads_to_the_newest_that_are(call):
    with pytest.raises(UserError) as refused:
        CALLS[call]("runs/demo/a")
    assert str(refused.value) == f"runs/demo/a is not a run folder: it has no config.toml. {NEWEST}"


@pytest.mark.parametrize("call", [lambda model: fasticcl.predict(model, "x.png"), fasticcl.export])
@pytest.mark.usefixtures("runs")
def test_a_model_that_is_not_there_leads_to_runs_that_have_one(here, call):
    (here / "x.png").touch()
    with pytest.raises(UserError) as refused:
        call("runs/demo/a")
    assert str(refused.value).endswith(" Nearby runs, newest first: runs/demo/c, runs/demo/e.")


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("runs/inat2018/a", "'runs/inat2018/other run'"),  # beside it, and no others
        ("runs/imagenet-lt/a", "'runs/inat2018/other run', runs/demo/b"),
        ("runs/inat2018", "'runs/inat2018/other run'"),
        ("runs", "'runs/inat2018/other run', runs/demo/b"),
        ("a", "'runs/inat2018/other run', runs/demo/b"),
        ("no/such/place", "'runs/inat2018/other run', runs/demo/b"),
    ],
)
@pytest.mark.usefixtures("runs")
def test_the_nearest_are_named_as_they_are_typed(path, named):
    sentence = nearby_runs(Path(path))
    assert sentence.startswith(f" Nearby runs, newest first: {named}")


def test_where_there_are_none_nothing_is_said(here):
    (here / "runs/demo/settings").mkdir(parents=True)
    (here / "runs/demo/settings/config.toml").touch()  # of some other program
    assert nearby_runs(here / "runs/demo/a") == ""


def test_a_free_name_has_the_smallest_number_that_nothing_has(here):
    for number in (1, 2, 4):
        (here / f"x-{number}").mkdir()
    assert free_name(here, "x") == "x-3"
