"""Sweeps: each setting ends as it does alone, held-back images choose, and the files are whole."""

import csv
import errno
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import fasticcl
from fasticcl.cli.main import main
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.data.plan import Plan
from fasticcl.engine.evaluate import METRICS, balanced_accuracy
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.errors import UserError
from fasticcl.shards.reader import Shards
from fasticcl.sweep import holdout_set
from fasticcl.sweep import sweep as sweeping
from fasticcl.sweep.result import Holdout, SweepEntry, SweepResult
from tests.support.small_runs import TINY_COUNTS, Heard, metrics, start_tiny

HELD_BACK = draw_holdout_rows(np.array(TINY_COUNTS), 0.3, seed=0)
TEMPERATURES = {"rebalance.distillation_temperature": [1, 5, 20]}


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    return start_tiny(tiny_shards, tmp_path_factory.mktemp("first"), {"rebalance.epochs": 2}).run


@pytest.fixture(scope="module")
def run_that_held_back(tiny_shards, tmp_path_factory):
    return start_tiny(tiny_shards, tmp_path_factory.mktemp("held_back"), {"data.holdout": 0.3}).run


@pytest.fixture
def trained(monkeypatch):
    """The stages that sweeps trained, in order."""
    kept, train = [], sweeping.train_jointly

    def keep(stages, *others):
        train(stages, *others)
        kept.extend(stages)

    monkeypatch.setattr(sweeping, "train_jointly", keep)
    return kept


@pytest.fixture
def encoded(monkeypatch):
    """How many batches were encoded, in a list of one."""
    count, encode = [0], Rebalancing.encode

    def counted(self, batch):
        count[0] += 1
        return encode(self, batch)

    monkeypatch.setattr(Rebalancing, "encode", counted)
    return count


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def call(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["fasticcl", *map(str, words)])
    with pytest.raises(SystemExit) as left:
        main()
    return left.value.code


def test_side_by_side_each_setting_ends_with_the_bits_of_its_own_run(run, trained, encoded):
    over = {
        "rebalance.distillation_weight": [0.2, 0.5],
        "rebalance.classifier": ["continue", "reinit"],
        "rebalance.gamma": [0, 1],
    }
    swept = fasticcl.sweep(run, over=over, holdout=0)
    assert len(swept.entries) == len(trained) == 8
    assert encoded == [2 * 2 * (sum(TINY_COUNTS) // 20)]  # one pass of two epochs for each γ'
    by_values = {tuple(stage_values(stage)): stage for stage in trained}
    for each in (swept.entries[0], swept.entries[3], swept.entries[6]):
        alone = fasticcl.rebalance(run, set=each.values)
        assert alone.rows["after"] == each.metrics
        mine = by_values[tuple(each.values.values())].network.state_dict()
        single = load_file(alone.run / "model.safetensors")
        assert mine.keys() == single.keys()
        assert all(torch.equal(mine[name], single[name]) for name in single)


def stage_values(stage):
    settings = stage.settings
    return settings.distillation_weight, settings.classifier, settings.gamma


def test_with_a_tuned_encoder_the_settings_train_one_after_another_to_the_same_bits(run, trained):
    swept = fasticcl.sweep(run, over=TEMPERATURES, set={"rebalance.encoder": "tuned"}, holdout=0)
    alone = fasticcl.rebalance(run, set={"rebalance.encoder": "tuned", **swept.entries[1].values})
    single = load_file(alone.run / "model.safetensors")
    mine = trained[1].network.state_dict()
    assert all(torch.equal(mine[name], single[name]) for name in single)
    assert alone.rows["after"] == swept.entries[1].metrics


def test_images_that_the_choice_rests_on_are_not_drawn_and_are_those_of_the_run(
    run_that_held_back, monkeypatch
):
    drawn, batch = set(), Plan.batch

    def noted(self, *place):
        planned = batch(self, *place)
        drawn.update(planned.aware.rows.tolist())
        return planned

    seen, evaluation = [], holdout_set.holdout_batches

    def watched(config, dataset, machine):
        seen.append(dataset.holdout_rows)
        return evaluation(config, dataset, machine)

    monkeypatch.setattr(Plan, "batch", noted)
    monkeypatch.setattr(holdout_set, "holdout_batches", watched)
    swept = fasticcl.sweep(run_that_held_back, over=TEMPERATURES)
    assert not swept.holdout.seen
    assert (swept.holdout.images, swept.holdout.classes) == (18, 8)
    assert len(seen[0]) == 18
    assert not drawn & set(seen[0].tolist())
    with pytest.raises(UserError, match="already has a holdout"):
        fasticcl.sweep(run_that_held_back, over=TEMPERATURES, holdout=0.1)


def test_the_files_say_what_was_found_and_the_run_is_left_as_it_is(run):
    before = contents(run)
    swept = fasticcl.sweep(run, over=["rebalance.gamma=0,0.5,1"], holdout=1)
    assert contents(run) == before
    assert swept.folder.parent == run
    found = json.loads((swept.folder / "sweep.json").read_text())
    assert found == json.loads(json.dumps(swept.as_dict()))
    assert found["finished"]
    assert found["holdout"] == {"holdout": 1, "images": 8, "classes": 8, "seen": True}
    assert found["before"]["val/top1"] == fasticcl.evaluate(run).rows["before"]["val/top1"]
    with open(swept.folder / "sweep.csv") as file:
        rows = [*csv.DictReader(file)]
    assert [float(row["rebalance.gamma"]) for row in rows] == [0, 0.5, 1]
    assert [float(row["held_back"]) for row in rows] == [each.holdout_accuracy for each in swept.entries]
    assert fasticcl.sweep(run, over=["rebalance.gamma=0"]).folder != swept.folder


@pytest.mark.parametrize(
    "over",
    [
        {"rebalance.distillation_temperature": [1, 10]},
        {"rebalance.gamma": [0, 1], "rebalance.distillation_weight": [0.2, 0.8]},
        {"rebalance.classifier": ["continue", "reinit"]},
    ],
    ids=["one key", "two keys", "words"],
)
def test_the_figure_is_a_picture_of_each_accuracy(run, over):
    folder = fasticcl.sweep(run, over=over).folder
    with Image.open(folder / "sweep.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 4
    texts = [
        each.text for each in ElementTree.parse(folder / "sweep.svg").iter() if each.tag.endswith("}text")
    ]
    assert next(iter(over)) in texts
    if len(over) == 1:
        assert {"overall", "few", "holdout"} <= {*texts}
        assert "many" not in texts  # the data has no such class
    else:
        assert {"distillation_weight 0.2", "distillation_weight 0.8"} <= {*texts}


def test_a_setting_that_diverges_has_no_accuracy_and_is_not_chosen(run):
    swept = fasticcl.sweep(run, over={"rebalance.lr_factor": [0.1, 1e38]})
    assert swept.entries[1].metrics == dict.fromkeys(METRICS)
    assert swept.entries[1].holdout_accuracy is None
    assert swept.best is swept.entries[0]


def sweep_of(*held_back, own=None):
    tried = [
        SweepEntry({"rebalance.gamma": number}, number == own, {"val/top1": 90.0 - 10 * number}, each)
        for number, each in enumerate(held_back)
    ]
    holdout = Holdout(0.1, 8, 8, True)
    fixed = {"rebalance.epochs": 5}
    return SweepResult(run="runs/demo/a run", folder=None, split="test", holdout=holdout, fixed=fixed,
                 before={}, holdout_before=None, entries=tried, planned=len(tried))  # fmt: skip


def test_the_highest_on_held_back_images_is_chosen_whatever_is_reported():
    assert sweep_of(50.0, 60.0, 55.0).best.values == {"rebalance.gamma": 1}


def test_of_equals_the_runs_own_setting_is_chosen_else_the_first():
    assert sweep_of(50.0, 60.0, 60.0, own=2).best.values == {"rebalance.gamma": 2}
    assert sweep_of(50.0, 60.0, 60.0, own=0).best.values == {"rebalance.gamma": 1}


def test_where_all_are_equal_or_nothing_was_held_back_nothing_is_chosen():
    assert sweep_of(100.0, 100.0, own=1).best is None
    assert sweep_of(None, None).best is None
    assert sweep_of(100.0, 100.0).command is None
    assert sweep_of(70.0).best.values == {"rebalance.gamma": 0}


def test_the_command_makes_a_run_of_the_best_setting():
    command = "fasticcl rebalance 'runs/demo/a run' --set rebalance.epochs=5 --set rebalance.gamma=1"
    assert sweep_of(50.0, 60.0).command == command


def test_balanced_accuracy_is_the_mean_over_classes_that_have_an_image():
    assert balanced_accuracy(np.array([9, 0, 1, 0]), np.array([10, 1, 2, 0])) == pytest.approx(100 * 1.4 / 3)
    assert balanced_accuracy(np.array([0, 0]), np.array([0, 0])) is None


def test_ctrl_c_leaves_what_was_finished_and_ends_with_130(run, monkeypatch, capsys):
    train, groups = sweeping.train_jointly, []

    def interrupted(*arguments):
        groups.append(arguments)
        if len(groups) == 2:
            raise KeyboardInterrupt
        train(*arguments)

    monkeypatch.setattr(sweeping, "train_jointly", interrupted)
    before = {path.name for path in run.iterdir()}
    assert (
        call(
            monkeypatch,
            "sweep",
            run,
            "--over",
            "rebalance.gamma=0,1",
            "--over",
            "rebalance.lr_factor=0.1,0.2",
        )
        == 130
    )
    (folder,) = [path for path in run.iterdir() if path.name not in before]
    found = json.loads((folder / "sweep.json").read_text())
    assert not found["finished"]
    assert [each["values"]["rebalance.gamma"] for each in found["settings"]] == [0, 0]
    assert f"2 of 4 settings are finished, in {folder}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Give the values to try, for example: --over rebalance.distillation_temperature=1,2,5,10,20"),
        (["--over", "rebalance.temperature=1,2"], "Did you mean rebalance.distillation_temperature?"),
        (["--over", "optim.lr=1,2"], "--over requires settings of the rebalancing stage"),
        (["--over", "gamma=1,2"], "--over requires settings of the rebalancing stage"),
        (["--over", "rebalance.gamma="], "Give the values to try"),
        (["--over", "rebalance.gamma=high"], "rebalance.gamma: "),
        (["--over", "rebalance.gamma=1", "--over", "rebalance.gamma=2"], "is given twice"),
        (["--over", "rebalance.epochs=0,5"], "rebalance.epochs is 0"),
        (["--over", "rebalance.gamma=1", "--set", "optim.lr=1"], "optim.lr is none of what can be set here"),
        (["--over", "rebalance.gamma=1", "--holdout", "-1"], "data.holdout: "),
        (["--over", "rebalance.gamma=1", "--holdout", "1.5"], "a share below 1 or a whole number of images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_is_one_sentence_and_exit_code_2(run, monkeypatch, capsys, words, sentence):
    before = {path.name for path in run.iterdir()}
    code = call(monkeypatch, "sweep", run, *words)
    error = capsys.readouterr().err
    assert code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert {path.name for path in run.iterdir()} == before


def test_the_command_line_shows_both_figures_and_what_they_rest_on(run, monkeypatch, capsys):
    over = ("--over", "rebalance.distillation_temperature=1,10")
    assert call(monkeypatch, "sweep", run, *over) == 0
    out = capsys.readouterr().out
    assert "epoch 2/2  settings 1, 2 of 2  " in out
    assert "held back" in out
    assert "The representation stage has trained on them" in out
    assert call(monkeypatch, "sweep", run, *over, "--json", "--holdout", "0") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["best"] is None
    assert [each["held_back"] for each in found["settings"]] == [None, None]


def test_the_table_says_that_the_runs_own_setting_had_fewer_images_than_the_run(
    run, run_that_held_back, monkeypatch, capsys
):
    def table(*words):
        assert call(monkeypatch, "sweep", *words, "--over", "rebalance.gamma=0,1") == 0
        shown = capsys.readouterr().out.split("Figure: ")[0]
        assert shown.count("the run's setting") == 1
        return shown

    said = "rebalanced without 8 held-back images that the run itself had"
    assert said in table(run, "--holdout", "1")
    for shown in (table(run, "--holdout", "0"), table(run_that_held_back)):
        assert "held-back images" not in shown


def test_two_sweeps_at_once_have_a_folder_each(run, monkeypatch):
    inner, train = [], sweeping.train_jointly

    def interleaved(*arguments):
        if not inner:
            inner.append(None)
            inner.append(fasticcl.sweep(run, over={"rebalance.gamma": [0, 1]}))
        train(*arguments)

    monkeypatch.setattr(sweeping, "train_jointly", interleaved)
    outer = fasticcl.sweep(run, over=TEMPERATURES)
    assert outer.folder != inner[1].folder
    for each, key in ((outer, "distillation_temperature"), (inner[1], "gamma")):
        rows = [*csv.DictReader((each.folder / "sweep.csv").read_text().splitlines())]
        assert len(rows) >= 2
        assert any(key in name for name in rows[0])


def test_a_folder_that_cannot_be_made_is_one_sentence_and_exit_code_2(run, monkeypatch, capsys):
    make, before = os.mkdir, contents(run)

    def refuse(path, *mode):
        if Path(path).name.startswith("sweep-") and not Path(path).exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        make(path, *mode)

    monkeypatch.setattr("os.mkdir", refuse)
    number = len([*run.glob("sweep-*")]) + 1
    assert call(monkeypatch, "sweep", run, "--over", "rebalance.gamma=0,1") == 2
    assert capsys.readouterr().err == (
        f"error: Cannot create {run / f'sweep-{number}'}: Read-only file system. Free disk space or make the "
        "run folder writable, then sweep again.\n"
    )
    assert contents(run) == before


def test_a_setting_is_the_runs_own_only_as_a_whole(run):
    over = {"rebalance.gamma": [0.0, 1.0]}
    assert [each.same_as_run for each in fasticcl.sweep(run, over=over).entries] == [False, True]
    changed = fasticcl.sweep(run, over=over, set={"rebalance.distillation_weight": 0.1})
    assert [each.same_as_run for each in changed.entries] == [False, False]


def test_one_value_alone_need_not_be_in_a_list(run):
    forms = [{"rebalance.gamma": 0.5}, "rebalance.gamma=0.5", ["rebalance.gamma=0.5"]]
    tried = [fasticcl.sweep(run, over=over).entries for over in forms]
    assert [each.values for one in tried for each in one] == [{"rebalance.gamma": 0.5}] * 3


def rot(shards, row):
    """Change a byte of a training image and return what the image is called."""
    index = np.load(shards / "train/index.npy")[row]
    path = shards / "train" / f"shard-{int(index['shard']):06d}.tar"
    content = bytearray(path.read_bytes())
    content[int(index["offset"]) + 40] ^= 1
    path.write_bytes(content)
    return Shards(shards, "train").name(row)


@pytest.fixture
def rotten(tiny_shards, tmp_path):
    """Shards with an unreadable image that is held back where 30 % of the images are; and its name."""
    shards = shutil.copytree(tiny_shards, tmp_path / "shards")
    return shards, rot(shards, HELD_BACK[0])


@pytest.mark.parametrize("cache", ["host", "off"])
def test_an_unreadable_held_back_image_is_named_and_left_out_of_the_choice(rotten, tmp_path, cache):
    """Nothing draws it, so no training counts it and nothing is said to replace it."""
    shards, name = rotten
    trained, swept = Heard(), Heard()
    first = start_tiny(shards, tmp_path, {"data.holdout": 0.3}, cache=cache, console=trained.console).run
    assert trained.warnings() == []
    assert {record["data/bad_samples"] for record in metrics(first) if "val/top1" in record} == {0}
    found = fasticcl.sweep(first, over={"rebalance.gamma": [0, 1]}, console=swept.console)
    assert found.holdout.images == len(HELD_BACK) - 1
    assert swept.warnings() == [f"warning  {name} cannot be read and is left out of the holdout"]


@pytest.mark.parametrize("cache", ["host", "off"])
def test_an_image_that_training_found_unreadable_is_not_named_again_and_not_chosen_on(
    rotten, tmp_path, cache
):
    shards, name = rotten
    trained, swept = Heard(), Heard()
    first = start_tiny(shards, tmp_path, cache=cache, console=trained.console).run
    assert [line.split(": ")[0] for line in trained.warnings()] == [f"warning  {name}"]
    found = fasticcl.sweep(first, over={"rebalance.gamma": [0, 1]}, holdout=0.3, console=swept.console)
    assert found.holdout.images == len(HELD_BACK) - 1
    assert swept.warnings() == []
