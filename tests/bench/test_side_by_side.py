"""Training steps in several processes at the same time."""

import io
import json
import sys

import pytest

from fasticcl.bench import side_by_side
from fasticcl.bench.run_work import StepKind
from fasticcl.bench.side_by_side import measure_in_step, side_by_side_seconds
from fasticcl.engine.run.folder import CONFIG
from fasticcl.resolve import configure, resolve

# Imitates `measure_in_step` and writes down what it gets.
STAND_IN = """
import json, os, pathlib, sys
folder, activity, mode, seconds, scratch = sys.argv[1:]
print("ready", flush=True)
line = sys.stdin.readline()
number = int(os.environ["NUMBER"])
pathlib.Path(folder, f"{number}.json").write_text(json.dumps([activity, mode, seconds, scratch, line]))
print(float(number))
"""


def kind(shards, activity="interpolative"):
    settings = {"method.encoder": "resnet8", "data.image_size": 8, "data.crop_padding": 1}
    options = {"data": shards, "batch_size": 20, "device": "cpu"}
    return StepKind.of(configure("demo", set=settings, **options), activity, "off")


@pytest.mark.parametrize("numbers", [[3], [7, 1, 2]])
def test_the_median_of_the_processes_counts(monkeypatch, numbers, tiny_shards, tmp_path):
    monkeypatch.setattr(side_by_side, "_MEASURE", STAND_IN)
    environments = [{"NUMBER": str(number)} for number in numbers]
    folder = tmp_path / "new"
    median = sorted(numbers)[len(numbers) // 2]
    assert side_by_side_seconds(kind(tiny_shards), folder, environments, 3, seconds=0.5) == median
    assert resolve(file=folder / CONFIG).engine.workers == 3
    for place, number in enumerate(numbers):
        written = json.loads((folder / f"{number}.json").read_text())
        assert written == ["interpolative", "off", "0.5", str(folder / str(place)), "\n"]


@pytest.mark.parametrize("code", ["exit(1)", "print('ready', flush=True); input(); exit(1)"])
def test_there_is_no_time_if_a_process_fails(monkeypatch, code, tiny_shards, tmp_path):
    monkeypatch.setattr(side_by_side, "_MEASURE", code)
    assert side_by_side_seconds(kind(tiny_shards), tmp_path, [{}, {}], None) is None


def test_a_process_measures_when_all_are_ready(monkeypatch, capsys, tiny_shards, tmp_path):
    (tmp_path / CONFIG).write_text(kind(tiny_shards).config.to_toml())
    printed_before = []

    class Input(io.StringIO):
        def readline(self):
            printed_before.append(capsys.readouterr().out)
            return "\n"

    monkeypatch.setattr(
        sys, "argv", ["-c", str(tmp_path), "interpolative", "off", "0.01", str(tmp_path / "0")]
    )
    monkeypatch.setattr(sys, "stdin", Input())
    measure_in_step()
    assert printed_before == ["ready\n"]
    assert float(capsys.readouterr().out) > 0
