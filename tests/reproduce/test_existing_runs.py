"""Existing runs are found by what they train."""

import shutil

import pytest

from fasticcl.engine.run.folder import RunFolder
from fasticcl.engine.run.lock import lock_run
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.resolve import configure, validate
from tests.support.small_runs import train_tiny
from tests.support.table_plans import CHECKSUM, write_manifest, write_run


@pytest.fixture
def config(tmp_path):
    """The configuration of cRT with shards that only have a manifest."""
    shards = write_manifest(tmp_path / "data", imbalance=100)
    return configure("cifar100-lt", method="crt", data=shards, project=tmp_path / "runs", epochs=4)


def existing(tmp_path):
    return ExistingRuns(tmp_path / "runs")


def test_finished_run_is_found_under_any_name(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, epochs=2).run
    config = RunFolder.open(run).config
    shutil.move(run, run.with_name("other"))
    found = ExistingRuns(tmp_path).find(config)
    assert found is not None
    assert found.finished
    assert found.can_be_continued
    assert found.folder.name == "other"
    values = config.model_dump()
    values["engine"]["seed"] += 1
    assert ExistingRuns(tmp_path).find(validate(values)) is None


def test_run_without_an_epoch_is_not_finished(config, tmp_path):
    write_run(config, "a", first=0, second=0, finished=False)
    found = existing(tmp_path).find(config)
    assert found is not None
    assert not found.finished
    assert not found.first_stage_finished
    assert found.data == CHECKSUM[:12]  # of the shards that it would be trained on


def test_finished_run_is_preferred(config, tmp_path):
    write_run(config, "a", second=3, finished=False)
    write_run(config, "b")
    write_run(config, "c", first=1, second=0, finished=False)
    assert existing(tmp_path).find(config).folder.name == "b"


def test_run_on_other_data_is_not_found(config, tmp_path):
    write_run(config, "a", checksum="b2" * 32)
    runs = existing(tmp_path)
    assert runs.find(config, CHECKSUM[:12]) is None
    assert runs.notes == [f"{tmp_path}/runs/cifar100-lt/a is not used: it was trained on other images"]
    assert runs.problems == []
    assert existing(tmp_path).with_first_stage(config, CHECKSUM[:12]) is None
    assert existing(tmp_path).find(config) is not None


def test_readout_is_finished_after_its_record(config, tmp_path):
    readout = configure("cifar100-lt", method="ncm", data=config.data.dir, project=tmp_path / "runs")
    write_run(readout, "a", second=0, finished=False)
    assert not existing(tmp_path).find(readout).finished
    write_run(readout, "b")
    assert existing(tmp_path).find(readout).finished


def test_files_that_are_not_written_yet_are_not_finished(config, tmp_path):
    run = write_run(config, "a")
    (run / "previous.pt").touch()
    assert not existing(tmp_path).find(config).finished


def test_run_that_is_being_trained_is_recognised(config, tmp_path):
    run = write_run(config, "a", first=1, second=0, finished=False)
    with lock_run(run):
        assert existing(tmp_path).find(config).running
    assert not existing(tmp_path).find(config).running


@pytest.mark.parametrize(
    "lines", ["", '{"val/top1": 5.0}\n', '{"stage": "rebalancing", "val/top1": 5.0}\n', "[1]\n{\n\0"]
)
def test_weights_without_all_epochs_are_a_problem(config, tmp_path, lines):
    run = write_run(config, "a", second=1)
    with open(run / "metrics.jsonl", "a") as file:
        file.write(lines)
    runs = existing(tmp_path)
    assert runs.find(config) is None
    assert runs.find(config) is None
    assert runs.problems == [f"{run} is not used: it has weights, but metrics.jsonl lacks epochs"]


@pytest.mark.parametrize("text", ["[data\n", "[data]\ndataset = 'unknown'\n", "[other]\nkey = 1\n", "\0"])
def test_damaged_configuration_is_a_problem(config, tmp_path, text):
    write_run(config, "a")
    (write_run(config, "b") / "config.toml").write_text(text)
    runs = existing(tmp_path)
    assert runs.find(config).folder.name == "a"
    assert len(runs.problems) == 1
    assert str(tmp_path / "runs" / "cifar100-lt" / "b") in runs.problems[0]


def test_foreign_folders_are_ignored(config, tmp_path):
    write_run(config, "a")
    (tmp_path / "runs" / "cifar100-lt" / "notes").mkdir()
    (tmp_path / "runs" / "table1.html").touch()
    runs = existing(tmp_path)
    assert runs.find(config) is not None
    assert runs.problems == []


def test_moved_run_is_kept_but_not_continued(config, tmp_path):
    moved = tmp_path / "runs" / "old" / "a"
    moved.parent.mkdir(parents=True)
    shutil.move(write_run(config, "a"), moved)
    assert existing(tmp_path).find(config).finished
    assert existing(tmp_path).with_first_stage(config) is None
    (moved / "model.safetensors").unlink()
    assert existing(tmp_path).find(config) is None


@pytest.mark.parametrize("missing", ["last.pt", "data", "epochs"])
def test_first_stage_needs_its_checkpoint_data_and_epochs(config, tmp_path, missing):
    run = write_run(config, "a", first=3 if missing == "epochs" else None, second=0, finished=False)
    if missing == "last.pt":
        (run / "last.pt").unlink()
    if missing == "data":
        shutil.rmtree(config.data.dir)
    assert existing(tmp_path).with_first_stage(config) is None


@pytest.mark.parametrize(
    ("settings", "is_used"),
    [
        ({}, True),
        ({"seed": 1}, False),
        ({"method": "crt"}, False),
        ({"set": {"optim.lr": 0.3}}, False),
        ({"checksum": "b2" * 32}, False),
    ],
)
def test_m2m_with_another_seed_network_is_not_used(config, tmp_path, settings, is_used):
    checksum = settings.pop("checksum", CHECKSUM)
    options = {"data": config.data.dir, "project": tmp_path / "runs", "epochs": 4}
    seed_config = configure("cifar100-lt", **({"method": "ce"} | options | settings))
    seed = write_run(seed_config, "s", checksum=checksum)
    m2m = configure("cifar100-lt", method="m2m", **options)
    given = m2m.model_copy(update={"method": m2m.method.model_copy(update={"seed_run": seed})})
    write_run(given, "a")
    runs = existing(tmp_path)
    assert (runs.find(m2m) is not None) == is_used
    assert (runs.with_first_stage(m2m) is not None) == is_used
    reason = "its method.seed_run is not a run of ce with the same settings"
    assert runs.notes == ([] if is_used else [f"{tmp_path}/runs/cifar100-lt/a is not used: {reason}"])
    shutil.rmtree(seed)
    assert existing(tmp_path).find(m2m) is not None  # not known to be another network
