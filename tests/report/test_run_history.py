"""Records and settings of a run."""

import dataclasses

import pytest

import fasticcl
from fasticcl.errors import UserError
from fasticcl.report.run_sections import run_sections
from fasticcl.shards.manifest import Manifest, SplitInfo
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


def test_a_run_within_its_seed_stage_has_nothing_to_report(run):
    lines = (run / "metrics.jsonl").read_text().replace('"stage": "representation"', '"stage": "seed"')
    seed = [line + "\n" for line in lines.splitlines() if '"stage": "seed"' in line]
    (run / "metrics.jsonl").write_text("".join(seed))
    with pytest.raises(UserError, match="has no evaluated epoch to report"):
        fasticcl.report(run)


def test_a_seed_network_is_noted_with_its_accuracy(tmp_path):
    run = run_history(tmp_path, "a", 70, method="m2m", epochs=3)
    assert run.seed_note == ""
    assert not run.finished
    seed = [{**run.epochs[0], "stage": "seed", "epoch": n + 1, "val/top1": 50.0 + n} for n in range(3)]
    with_seed = dataclasses.replace(run, epochs=[*seed, *run.epochs])
    assert with_seed.seed_note == (
        "The seed network was trained first, with cross-entropy for 3 epochs, and has an overall accuracy of "
        "52.0 %."
    )
    assert with_seed.accuracies == run.accuracies
    assert with_seed.seed_note in next(run_sections(with_seed, None, {}, "")).text
    others = [{**run.epochs[0], "epoch": epoch} for epoch in (2, 3)]
    assert dataclasses.replace(with_seed, epochs=[*with_seed.epochs, *others]).finished
    assert not dataclasses.replace(with_seed, epochs=[*seed[1:], *run.epochs, *others]).finished


@pytest.mark.parametrize(("recorded", "known"), [("5" * 12, True), ("6" * 12, False), (None, False)])
def test_a_run_of_an_earlier_version_has_the_note_of_its_unchanged_shards(tmp_path, recorded, known):
    environments = [{"started": "2026-11-01"} | ({"data": recorded} if recorded else {})]
    history = dataclasses.replace(run_history(tmp_path, "a", 70), environments=environments)
    assert history.subset_note == ""  # the shards do not exist
    Manifest(
        dataset="folder",
        classes=["a", "b"],
        splits={"train": SplitInfo(class_counts=[4, 2], shards=[], index_sha256="")},
        settings={"long_tail": 2.0},
        source_sha256="5" * 64,
        reencoded={},
        quarantined=0,
        quarantine_sha256="",
    ).write(history.config.data.dir)
    history = dataclasses.replace(history)
    expected = (
        "The training images are a seeded random choice with an exponential profile of imbalance ratio 2."
    )
    assert history.subset_note == (expected if known else "")
