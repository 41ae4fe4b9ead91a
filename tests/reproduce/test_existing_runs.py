"""Existing runs are found by what they train."""

import shutil

from fasticcl.engine.run.folder import RunFolder
from fasticcl.reproduce.existing_runs import ExistingRuns
from fasticcl.resolve import validate
from tests.support.small_runs import train_tiny


def test_finished_run_is_found_under_any_name(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, epochs=2).run
    config = RunFolder.open(run).config
    shutil.move(run, run.with_name("other"))
    found = ExistingRuns(tmp_path).find(config)
    assert found is not None
    assert found.finished
    assert found.folder.name == "other"
    values = config.model_dump()
    values["engine"]["seed"] += 1
    assert ExistingRuns(tmp_path).find(validate(values)) is None


def test_run_without_an_epoch_is_not_finished(tiny_shards, tmp_path):
    run = train_tiny(tiny_shards, tmp_path, epochs=2).run
    (run / "metrics.jsonl").unlink()
    (run / "model.safetensors").unlink()
    found = ExistingRuns(tmp_path).find(RunFolder.open(run).config)
    assert found is not None
    assert not found.finished
    assert not found.first_stage_finished
