"""Command lines that train the runs of a plan."""

from itertools import pairwise

import pytest

from fasticcl.config.layers import as_layer
from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.rerun_settings import with_settings
from fasticcl.errors import UserError
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.reproduce.job import Job
from fasticcl.reproduce.run_key import run_key
from fasticcl.reproduce.training.commands import command_words, rebalance_words, resume_words
from fasticcl.resolve import configure


def config_of(project, method="iccl", name="run", **settings):
    set = {key.replace("__", "."): value for key, value in settings.items()}
    return configure("cifar100-lt", method=method, project=project, name=name, set=set)


def options(words):
    """Return the values of each option."""
    values = {}
    for option, value in pairwise(words):
        if option.startswith("-"):
            values.setdefault(option, []).append(value)
    return values


def test_new_run_is_trained_from_a_file_with_its_configuration(tmp_path):
    config = config_of(tmp_path, "ce", optim__epochs=60, engine__seed=2)
    words = command_words(Job(config, cells=()), tmp_path / "logs/run.toml", workers=3)
    given = options(words)
    assert words[0] == "train"
    assert configure(config=given["-c"][0]) == config
    assert given["--workers"] == ["3"]
    with_workers = config_of(tmp_path, engine__workers=7)
    words = command_words(Job(with_workers, cells=()), tmp_path / "logs/run.toml", workers=3)
    assert options(words)["--workers"] == ["7"]


@pytest.mark.parametrize(
    ("first", "method", "settings"),
    [
        ("ce", "crt", {}),
        ("ce", "tau-norm", {"rebalance__tau": 0.5}),
        ("ce", "ncm", {}),
        ("ce", "ncm", {"rebalance__epochs": 3}),  # without an effect
        ("iccl", "iccl", {"rebalance__gamma": -0.5, "rebalance__distillation_weight": 0.0}),
        ("iccl", "iccl", {"rebalance__encoder": "frozen", "rebalance__epochs": 3}),
        ("iccl", "tau-norm", {}),
        ("ce", "mislas", {}),
    ],
)
def test_second_stage_after_another_run_is_the_same_training(tmp_path, first, method, settings):
    """With the configuration that `fasticcl rebalance` makes of the words."""
    run = RunFolder.create(config_of(tmp_path, first, "first", optim__epochs=60))
    alone = config_of(tmp_path, method, optim__epochs=60, **settings)
    second = alone.rebalance
    name = method if first != "iccl" or method == "iccl" else f"iccl+{method}"
    config = config_of(tmp_path, first, optim__epochs=60)
    config = config.model_copy(
        update={"rebalance": second, "method": config.method.model_copy(update={"name": name})}
    )
    words = rebalance_words(Job(config, cells=(), first_stage=run.path), run.config)
    given = options(words)
    assert words[:2] == ["rebalance", str(run.path)]
    assert given["--method"] == [method]
    made = with_settings(run, as_layer(given.get("--set", [])), given["--method"][0])
    assert run_key(made) == run_key(config)


def test_device_and_report_of_the_second_stage_are_passed_on(tmp_path):
    first = config_of(tmp_path, "ce", "first", engine__device="cpu")
    config = config_of(tmp_path, "crt", engine__device="gpu", engine__report=False)
    given = options(rebalance_words(Job(config, cells=(), first_stage=tmp_path / "first"), first))
    assert given["--device"] == ["gpu"]
    assert given["--set"] == ["engine.report=false"]


def test_existing_run_is_resumed_in_its_folder(tmp_path):
    config = config_of(tmp_path)
    folder = RunFolder.create(config).path
    folder = folder.rename(folder.with_name("by hand"))
    job = Job(config, cells=(), run=ExistingRuns(tmp_path).find(config))
    expected = ["train", "cifar100-lt", "--project", str(tmp_path), "--name", "by hand", "--resume"]
    assert command_words(job, tmp_path / "x.toml") == resume_words(job) == expected
    assert not (tmp_path / "x.toml").exists()
    words = command_words(job, tmp_path / "x.toml", workers=3)
    assert words == [*expected[:-1], "--workers", "3", "--resume"]


def test_folder_of_another_run_is_not_resumed(tmp_path):
    RunFolder.create(config_of(tmp_path))
    with pytest.raises(UserError, match="is a run with other settings"):
        command_words(Job(config_of(tmp_path, engine__seed=1), cells=()), tmp_path / "x.toml")
