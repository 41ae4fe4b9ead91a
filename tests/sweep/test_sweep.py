"""``fasticcl sweep``: its output, interruption and bad input."""

import csv
import errno
import json
import os
from pathlib import Path

import pytest

import fasticcl
from fasticcl.engine.evaluate import METRICS
from fasticcl.sweep import sweep as sweep_module

GAMMAS = ("--over", "rebalance.gamma=0,1")


def test_a_diverged_setting_has_no_accuracy_and_is_not_chosen(run):
    sweep = fasticcl.sweep(run, over={"rebalance.lr_factor": [0.1, 1e38]})
    assert sweep.entries[1].metrics == dict.fromkeys(METRICS)
    assert sweep.entries[1].holdout_accuracy is None
    assert sweep.entries[1].simulated_accuracy is None
    assert sweep.best is sweep.entries[0]


def test_ctrl_c_keeps_the_finished_settings_and_exits_with_130(run, run_cli, monkeypatch):
    train_jointly, calls = sweep_module.train_jointly, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        train_jointly(*arguments)

    monkeypatch.setattr(sweep_module, "train_jointly", interrupted)
    before = {path.name for path in run.iterdir()}
    code, out, _ = run_cli("sweep", run, *GAMMAS, "--over", "rebalance.lr_factor=0.1,0.2")
    assert code == 130
    (folder,) = [path for path in run.iterdir() if path.name not in before]
    stored = json.loads((folder / "sweep.json").read_text())
    assert not stored["finished"]
    assert [entry["values"]["rebalance.gamma"] for entry in stored["settings"]] == [0, 0]
    assert f"2 of 4 settings are finished, in {folder}" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [],
            "Give the values to try, for example: --over rebalance.gamma=0,0.5,1, or, with ",
        ),
        (["--over", "rebalance.distillation_temp=1,2"], "Did you mean rebalance.distillation_temperature?"),
        (["--over", "optim.lr=1,2"], "--over requires settings of the rebalancing stage"),
        (["--over", "gamma=1,2"], "--over requires settings of the rebalancing stage"),
        (["--over", "rebalance.gamma="], "Give the values to try"),
        (["--over", "rebalance.gamma=high"], "rebalance.gamma: "),
        (["--over", "rebalance.gamma=1", "--over", "rebalance.gamma=2"], "is given twice"),
        (["--over", "rebalance.epochs=0,5"], "rebalance.epochs is 0"),
        (["--over", "rebalance.gamma=1", "--set", "optim.lr=1"], "optim.lr cannot be set here"),
        (["--over", "rebalance.gamma=1", "--holdout", "-1"], "data.holdout"),
        (["--over", "rebalance.gamma=1", "--holdout", "1.5"], "below 1 or a whole number of images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_one_sentence_and_exit_code_2(run, run_cli, words, message):
    before = {path.name for path in run.iterdir()}
    code, _, error = run_cli("sweep", run, *words)
    assert code == 2
    assert message in error
    assert error.count("\n") == 1
    assert {path.name for path in run.iterdir()} == before


def test_the_command_line_explains_the_accuracies_that_choose(run, run_cli):
    over = ("--over", "rebalance.distillation_temperature=1,10")
    code, out, _ = run_cli("sweep", run, *over)
    assert code == 0
    assert "epoch 2/2  settings 1, 2 of 2  " in out
    assert "holdout" in out
    assert "The representation stage was trained on them" in out
    assert "simulated: mean per-class accuracy on features drawn" in out
    code, out, _ = run_cli("sweep", run, *over, "--json", "--holdout", "0", "--criterion", "holdout")
    assert code == 0
    printed = json.loads(out)
    assert printed["best"] is None
    assert [entry["held_back"] for entry in printed["settings"]] == [None, None]
    assert [entry["simulated"] for entry in printed["settings"]] == [None, None]


def test_the_table_notes_that_the_run_itself_had_more_images(run, run_with_holdout, run_cli):
    def table(*words):
        code, out, _ = run_cli("sweep", *words, *GAMMAS)
        assert code == 0
        printed = out.split("Figure: ")[0]
        assert printed.count("as in the run") == 1
        return printed

    note = "rebalanced without 8 holdout images that the run trained on"
    assert note in table(run, "--holdout", "1")
    for printed in (table(run, "--holdout", "0"), table(run_with_holdout)):
        assert "rebalanced without" not in printed


def test_two_simultaneous_sweeps_have_separate_folders(run, monkeypatch):
    inner, train_jointly = [], sweep_module.train_jointly

    def interleaved(*arguments):
        if not inner:
            inner.append(None)
            inner.append(fasticcl.sweep(run, over={"rebalance.gamma": [0, 1]}))
        train_jointly(*arguments)

    monkeypatch.setattr(sweep_module, "train_jointly", interleaved)
    outer = fasticcl.sweep(run, over={"rebalance.distillation_temperature": [1, 5, 20]})
    assert outer.folder != inner[1].folder
    for sweep, key in ((outer, "distillation_temperature"), (inner[1], "gamma")):
        rows = [*csv.DictReader((sweep.folder / "sweep.csv").read_text().splitlines())]
        assert len(rows) >= 2
        assert any(key in name for name in rows[0])


def test_failure_to_create_the_folder_gives_one_sentence_and_exit_code_2(run, run_cli, monkeypatch):
    mkdir = os.mkdir
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}

    def refuse(path, *mode):
        if Path(path).name.startswith("sweep-") and not Path(path).exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        mkdir(path, *mode)

    monkeypatch.setattr("os.mkdir", refuse)
    number = len([*run.glob("sweep-*")]) + 1
    code, _, error = run_cli("sweep", run, *GAMMAS)
    assert code == 2
    assert error == (
        f"error: Cannot create {run / f'sweep-{number}'}: Read-only file system. Free disk space or make the "
        "run folder writable, then sweep again.\n"
    )
    assert {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()} == before
