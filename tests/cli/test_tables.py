"""Tables and lines that the commands print."""

import shlex
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fasticcl
from fasticcl.cli import tables
from fasticcl.engine.results import Report
from fasticcl.engine.run.folder import RunFolder
from fasticcl.shards.manifest import Manifest
from fasticcl.shards.summary import Summary


def test_suggested_command_for_another_seed_can_be_used_repeatedly(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create(fasticcl.configure("demo", name="first", seed=4)).path
    started = []
    for _ in range(3):
        (line,) = [line for line in tables.after_training(Report(run, {}, 1, "test")) if " --seed " in line]
        words = shlex.split(line.split("    ")[-2])
        options = dict(zip(words[2::2], words[3::2], strict=True))
        config = fasticcl.configure(config=options["-c"], name=options["--name"], seed=int(options["--seed"]))
        run = RunFolder.create(config).path
        started.append((run, config.engine.seed))
    assert started == [
        (Path("runs/demo") / name, seed) for name, seed in [("again", 5), ("again-1", 6), ("again-2", 7)]
    ]


@pytest.mark.parametrize(
    ("settings", "swept"),
    [
        ({}, "rebalance.gamma=0,0.5,1"),
        ({"rebalance.readout": "tau_norm"}, "rebalance.tau=0,0.5,1"),
        ({"rebalance.readout": "ncm"}, None),
    ],
)
def test_sweep_after_training_is_over_a_setting_that_the_second_stage_uses(
    tmp_path, monkeypatch, settings, swept
):
    monkeypatch.chdir(tmp_path)
    run = RunFolder.create(fasticcl.configure("demo", name="ce-focal", set=settings)).path
    lines = [*tables.after_training(Report(run, {"after": {}}, 1, "test"))]
    suggested = [line.split("--over ")[1].split()[0] for line in lines if " sweep " in line]
    assert suggested == ([swept] if swept else [])
    assert any("--method ce " in line for line in lines)  # the name of a run is not that of its method


@pytest.mark.parametrize(
    ("rated", "reason"), [([], "no setting has a simulated accuracy"), ([1, 2], "does not distinguish")]
)
def test_sweep_without_a_choice_says_why(rated, reason):
    holdout = SimpleNamespace(images=0)
    sweep = SimpleNamespace(
        holdout=holdout, folder=Path("sweep-1"), criterion="simulated", rated=rated, best=None
    )
    *_, line = tables.sweep_conclusion(sweep)
    assert line.startswith("No best setting was chosen")
    assert reason in line


@pytest.mark.parametrize("counts", [[7], [1, 1], [10_000, 10_000], [12, 12, 12]])
def test_histogram_of_classes_of_equal_size_has_one_bar(counts):
    lines = list(tables.histogram(Summary(manifest=None, splits={}, counts=np.array(counts))))
    assert len(lines) == 2
    assert lines[1].endswith(f"█ {len(counts)}")


def test_shards_summary_has_class_groups_imbalance_and_image_sizes(digit_shards):
    lines = "\n".join(tables.shards_summary(fasticcl.show(digit_shards)))
    assert "classes   10: 1 many (142), 4 medium (212), 5 few (38) training images" in lines
    assert "imbalance 71.0 = 142 / 2" in lines
    assert "height 8/8/8, width 8/8/8 pixels" in lines
    assert Manifest.read(digit_shards).dataset in lines
