"""Records and settings of a run."""

import fasticcl
from tests.support.report_files import read_json


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
