"""Sections of the page of a run."""

import dataclasses

import numpy as np
import pytest

import fasticcl
from fasticcl.convert.conversion import convert
from fasticcl.convert.source import Source
from fasticcl.report import run_sections
from fasticcl.report.comparison import comparison_sections
from fasticcl.report.run_groups import group_runs
from tests.support.report_files import read_json, read_page
from tests.support.run_histories import run_history


def test_the_accuracy_table_has_the_accuracies_of_the_last_epoch(finished_run, results):
    rows = {row[0]: row[1:] for row in read_page(finished_run).tables[0]}
    last = results[-1]
    keys = ("val/top1", "val/many", "val/medium", "val/few")
    cells = ["–" if last[key] == "" else f"{float(last[key]):.1f}" for key in keys]
    assert rows["after rebalancing"] == [last["epoch"], *cells]


def test_the_settings_that_differ_from_the_presets_are_shown(finished_run):
    rows = {row[0]: row[1:] for row in read_page(finished_run).tables[1][1:]}
    assert rows["data.image_size"] == ["16", "8"]
    assert rows["optim.batch_size"] == ["32", "20"]
    assert "optim.momentum" not in rows


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ""),
        (
            {
                "method.name": "ldam-drw",
                "method.class_loss": "ldam",
                "method.classifier": "cosine",
                "method.class_weight_beta": 0.9999,
                "method.class_weight_start": 0.8,
            },
            "Method ldam-drw: loss ldam (margin = 0.5); classifier cosine (scale 30); class weights "
            "(β = 0.9999) from epoch 5, loss divided by the sum of the weights.",
        ),
        (
            {"method.name": "ce-drs", "data.resample_start": 0.8},
            "Method ce-drs: re-sampling (γ = 0) from epoch 5.",
        ),
    ],
)
def test_the_parts_of_the_method_are_shown_with_the_settings(tmp_path, settings, expected):
    section = run_sections._settings(run_history(tmp_path, "a", 70, epochs=5, set=settings))
    assert section.text == expected


def test_the_class_table_is_limited_to_the_worst_classes(run, monkeypatch):
    monkeypatch.setattr(run_sections, "_CLASS_ROWS", 4)
    fasticcl.report(run)
    table = next(table for table in read_page(run).tables if table[0][0].startswith("class"))
    details = read_json(run)["details"]
    accuracies = sorted(100 * np.array(details["right"]["after"]) / details["seen"])
    assert [float(row[-1]) for row in table[1:]] == pytest.approx(accuracies[:4], abs=0.05)


def test_starts_in_the_same_environment_share_a_column(history):
    environments = [history.environments[0] | {"started": f"day {day}"} for day in range(12)]
    environments[11] = environments[11] | {"torch": "another"}
    (table,) = run_sections._environments(dataclasses.replace(history, environments=environments))
    shared = ", ".join(f"day {day}" for day in range(11))
    assert [column.name for column in table.columns] == ["started", shared, "day 11"]
    (torch_row,) = [row for row in table.rows if row[0].text == "torch"]
    assert [cell.text for cell in torch_row] == ["torch", str(history.environments[0]["torch"]), "another"]


def test_the_shares_of_evaluation_and_saving_are_of_all_epochs(history):
    times = ("time/epoch_sec", "time/eval_pct", "time/save_pct")
    epochs = [dict(zip(times, values, strict=True)) for values in [(10.0, 0.0, 1.0), (30.0, 40.0, 3.0)]]
    timed = dataclasses.replace(history, epochs=epochs)
    note = " Of the total time, evaluation took 30.0 % and saving 2.5 %."
    assert run_sections._epoch_note(timed) == note
    assert "saving" in run_sections._speed_note(history)
    assert run_sections._epoch_note(dataclasses.replace(history, epochs=[{}])) == ""


def test_an_unfinished_run_has_no_class_results_and_the_page_explains_why(run):
    (run / "model.safetensors").unlink()
    (run / "report.json").unlink()
    fasticcl.report(run)
    page = read_page(run)
    assert any("is not finished. Continue it with" in text for text in page.texts)
    assert page.elements.count("svg") == 3


def test_class_names_are_escaped(tmp_path, photo_source):
    names = ["<script>alert(1)</script>", 'quote " and & amp', "c_%"]
    convert(Source("folder", names, photo_source.splits), tmp_path / "shards")
    settings = {"method.encoder": "resnet8", "data.image_size": 16, "rebalance.epochs": 0}
    options = {"data": tmp_path / "shards", "project": tmp_path, "set": settings, "device": "cpu"}
    run = fasticcl.train("folder", fast_dev_run=True, batch_size=4, **options).run
    page = read_page(run)
    assert page.elements.count("script") == 1
    assert set(names) <= {row[0] for table in page.tables for row in table}
    assert any("--fast-dev-run" in text for text in page.texts)


def test_the_note_on_the_subset_is_recorded_and_shown_beside_the_accuracies(tmp_path):
    note = "The class counts are those of the published CIFAR10-LT, but the images are another choice."
    environment = {"started": "2026-11-01", "fasticcl": "1", "data": "0" * 12, "subset": note}
    history = dataclasses.replace(run_history(tmp_path, "a", 70), environments=[environment])
    assert history.subset_note == note
    assert note in run_sections._accuracy_note(history)
    (table,) = run_sections._environments(history)
    assert [row[0].text for row in table.rows] == ["fasticcl", "data"]
    (group,) = group_runs([history, dataclasses.replace(history, folder=tmp_path / "b")])
    (compared, _) = comparison_sections([group], [])
    assert compared.text.count(note) == 1
