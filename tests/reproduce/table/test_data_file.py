"""The data of a result as JSON."""

import json

import numpy as np
import pytest

from fasticcl.reproduce.table.data_file import json_text
from tests.support.reproduced_table import CE, small_result


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return json.loads(json_text(small_result(folder), folder))


def test_values_of_every_seed_reproduce_the_mean_and_the_deviation(values):
    (cell,) = [cell for cell in values["cells"] if cell["row"] == "ce"]
    overall = cell["metrics"]["overall"]["last"]
    assert overall["values"] == {"0": CE[0], "1": CE[1], "2": CE[2]}
    numbers = [*overall["values"].values()]
    assert (overall["n"], overall["mean"]) == (3, pytest.approx(np.mean(numbers)))
    assert overall["std"] == pytest.approx(np.std(numbers, ddof=1))
    assert cell["settings"]["optim.epochs"] == 3
    assert cell["differences"] == ["3 epochs (paper: 50)", "weight decay 0 (paper: 5e-4)"]


def test_runs_have_state_accuracies_and_environment(values):
    run = values["runs"]["demo/ce-digits-s1"]
    assert (run["seed"], run["state"], run["last"]["overall"], run["best"]["epoch"]) == (
        1,
        "finished",
        CE[1],
        2,
    )
    assert run["environments"][0]["machine"] == "CPU, 1 thread"
    assert values["runs"]["demo/crt-digits-s1"]["last"] is None
    paths = {path for cell in values["cells"] for path in cell["runs"]}
    assert paths == values["runs"].keys()


def test_numbers_are_json_without_nan(values):
    json.dumps(values, allow_nan=False)
    assert values["command"] == "fasticcl reproduce table9"
