"""Records and settings of a run."""

import dataclasses

import pytest

import fasticcl
from tests.support.report_files import read_json
from tests.support.run_histories import run_history


def test_a_line_truncated_by_a_crash_is_ignored(run):
    before = read_json(run)["accuracies"]
    with (run / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "rebalancing", "val/top1": 10')
    fasticcl.report(run)
    assert read_json(run)["accuracies"] == before


def test_the_name_of_the_run_is_known_from_inside_its_folder(run, monkeypatch):
    monkeypatch.chdir(run)
    fasticcl.report(".")
    assert read_json(run)["run"] == "run"


def test_differences_list_changed_settings_but_neither_seed_nor_paths(history):
    assert history.differences["data.image_size"] == (16, 8)
    assert history.differences["optim.batch_size"] == (32, 20)
    assert "optim.momentum" not in history.differences
    assert not any(key.startswith(("data.dir", "engine.name", "engine.seed")) for key in history.differences)


@pytest.mark.parametrize(
    ("name", "method", "second", "changed"),
    [
        ("ldam-drw", "ldam-drw", {}, {}),
        ("ce+tau-norm", "ce", {"epochs": 10, "readout": "tau_norm"}, {}),
        ("ce+tau-norm", "ce", {"epochs": 10}, {"rebalance.readout": ("tau_norm", "none")}),
    ],
)
def test_differences_are_from_the_presets_in_the_name_of_the_method(tmp_path, name, method, second, changed):
    settings = {f"rebalance.{key}": value for key, value in second.items()}
    run = named(run_history(tmp_path, "a", 70, epochs=50, method=method, set=settings), name)
    assert run.differences == changed


def test_differences_of_an_unknown_method_are_from_the_dataset_preset(tmp_path):
    run = named(run_history(tmp_path, "a", 70, method="ce"), "mine")
    assert run.differences["method.interpolative_weight"] == (1.0, 0.0)


@pytest.mark.parametrize(
    ("name", "changed"), [("ce", set()), ("mixup", {"optim.recipe", "optim.lr", "optim.batch_size"})]
)
def test_a_published_schedule_is_no_difference_from_the_presets_if_it_is_known(tmp_path, name, changed):
    config = fasticcl.configure("imagenet-lt", method="ce", recipe="published", data=tmp_path)
    run = named(dataclasses.replace(run_history(tmp_path, "a", 70), config=config), name)
    assert {key for key in run.differences if key.startswith("optim.")} == changed


def named(history, name):
    """Return a history in which the method has another name."""
    method = history.config.method.model_copy(update={"name": name})
    return dataclasses.replace(history, config=history.config.model_copy(update={"method": method}))
