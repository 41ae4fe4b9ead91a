"""The state of a run and its accuracies."""

import pytest

from fasticcl.engine.run.lock import lock_run
from fasticcl.reproduce.table.data_facts import DataFacts
from fasticcl.reproduce.table.run_result import run_result
from fasticcl.resolve import configure
from tests.support.reproduced_table import DATA, ENVIRONMENT, write_run

VALUES = [50.0, None, 40.0, 10.0]
FACTS = DataFacts("test", 9, 9, 5, {"many": 0, "medium": 3, "few": 1}, DATA + "0" * 52)


def config(project, method="crt", epochs=3, set=(), **rebalance):
    settings = {f"rebalance.{key}": value for key, value in rebalance.items()} | dict(set)
    return configure("demo", method=method, epochs=epochs, project=project, name="run", set=settings)


def test_interrupted_run_says_its_last_epoch_and_the_length_of_the_stage(tmp_path):
    folder = write_run(config(tmp_path, epochs=60), [VALUES] * 12)
    assert run_result(folder, 0, "final", None).status == "interrupted at epoch 12 of 60"
    assert run_result(folder, 0, "before", None).status == "interrupted at epoch 12 of 60"


def test_run_interrupted_in_its_second_stage_is_finished_for_before_rows(tmp_path):
    folder = write_run(config(tmp_path, epochs=2, set={"rebalance.epochs": 4}), [VALUES] * 2, [VALUES])
    assert run_result(folder, 0, "final", None).status == "interrupted at epoch 1 of 4 of the second stage"
    assert run_result(folder, 0, "before", None).state == "finished"


def test_run_in_training_is_running(tmp_path):
    folder = write_run(config(tmp_path, epochs=60), [VALUES] * 12)
    with lock_run(folder):
        assert run_result(folder, 0, "final", None).status == "running at epoch 12 of 60"


def test_run_without_an_evaluated_epoch_is_interrupted_and_no_folder_is_missing(tmp_path):
    folder = write_run(config(tmp_path, epochs=60), [None] * 3)
    assert run_result(folder, 0, "final", None).status == "interrupted before the first evaluation"
    assert run_result(tmp_path / "nothing", 0, "final", None).status == "missing"
    assert run_result(tmp_path / "nothing", 0, "final", None, "no disk").status == "failed: no disk"


def test_readout_has_no_best_epoch(tmp_path):
    folder = write_run(config(tmp_path, "tau-norm"), [VALUES] * 3, [[60.0, None, 40.0, 20.0]])
    result = run_result(folder, 4, "final", None)
    assert (result.seed, result.last.epoch, result.last.values["overall"], result.best) == (4, 1, 60.0, None)
    assert run_result(folder, 4, "before", None).best.values["overall"] == 50.0


@pytest.mark.parametrize(("data", "tail"), [(DATA, (3 * 40 + 10) / 4), ("0123", None)])
def test_tail_is_unknown_if_the_shards_are_not_those_of_the_run(tmp_path, data, tail):
    folder = write_run(config(tmp_path, "ce"), [VALUES] * 3, environment=ENVIRONMENT | {"data": data})
    assert run_result(folder, 0, "final", FACTS).last.values["tail"] == tail
