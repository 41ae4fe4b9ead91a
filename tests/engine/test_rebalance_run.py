"""Tests of running the rebalancing stage again, with the same or other settings."""

import os
import signal

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import fasticcl
from fasticcl.data.holdout import draw_holdout_rows
from fasticcl.data.plan import Plan
from fasticcl.errors import Stopped, UserError
from fasticcl.files import write_file
from tests.support.processes import call_main, on_ranks
from tests.support.small_runs import (
    FILES,
    TINY_COUNTS,
    differences,
    metrics,
    record_steps,
    resume,
    same_weights,
    train_tiny,
)

SETTINGS = {"rebalance.epochs": 2}


@pytest.fixture(scope="module")
def run(tiny_shards, tmp_path_factory):
    """A finished run, which no test modifies."""
    return train_tiny(tiny_shards, tmp_path_factory.mktemp("first"), SETTINGS).run


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "options"),
    [
        ({}, {}),
        ({"rebalance.encoder": "tuned"}, {}),
        ({"method.bn_mode": "split"}, {}),
        ({"rebalance.distillation_weight": 0.0}, {"method": "crt"}),
        ({"data.holdout": 0.2}, {}),
    ],
    ids=["frozen", "tuned", "split", "crt", "holdout"],
)
def test_unchanged_settings_reproduce_the_stage_bit_identically(tiny_shards, tmp_path, changes, options):
    run = train_tiny(tiny_shards, tmp_path, SETTINGS | changes, **options).run
    report = fasticcl.rebalance(run)
    assert report.run == tmp_path / "demo/run-rebalance-1"
    assert not differences(report.run, run)


def test_rebalance_runs_on_several_ranks(run, tmp_path):
    words = ["rebalance", run, "--name", "ranks", "--set", "engine.report=false"]
    on_ranks(tmp_path / "log", 2, call_main, *words)
    new = run.parent / "ranks"
    assert {path.name for path in new.iterdir()} == FILES
    epochs = [record for record in metrics(new) if "val/top1" in record and record["stage"] == "rebalancing"]
    alone = [record for record in metrics(run) if "val/top1" in record and record["stage"] == "rebalancing"]
    losses = [[record["train/loss"] for record in records] for records in (epochs, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_ranks_tune_the_encoder_like_a_single_process(tiny_shards, tmp_path):
    """With synchronised batch norm, because local statistics would differ from the first step on."""
    settings = SETTINGS | {"rebalance.encoder": "tuned", "engine.sync_bn": True}
    alone = train_tiny(tiny_shards, tmp_path, settings).run
    on_ranks(tmp_path / "log", 2, call_main, "rebalance", alone, "--name", "ranks")
    before = torch.load(alone / "last.pt", weights_only=True)["teacher"]
    one, ours = (load_file(alone.parent / name / "model.safetensors") for name in ("run", "ranks"))

    def distance(these, those):
        learnt = [name for name in one if name.startswith("encoder.") and one[name].is_floating_point()]
        return float(torch.cat([(these[name] - those[name]).flatten() for name in learnt]).norm())

    assert distance(ours, one) < 1e-3 * distance(one, before)


def test_old_run_is_unchanged_and_new_run_is_complete(run):
    before = contents(run)
    report = fasticcl.rebalance(run, set={"rebalance.gamma": 0.0}, name="balanced")
    assert contents(run) == before
    assert {path.name for path in report.run.iterdir()} == FILES
    old, new = metrics(run), metrics(report.run)
    first = [record for record in old if record["stage"] == "representation"]
    assert new[: len(first)] == first
    assert new[len(first) :] != old[len(first) :]
    assert not same_weights(report.run, run)
    assert fasticcl.evaluate(report.run).rows == report.rows
    assert report.rows["before"] == fasticcl.evaluate(run).rows["before"]
    with pytest.raises(UserError, match=r"exists\. Choose another --name"):
        fasticcl.rebalance(run, name="balanced")


def test_configuration_of_the_new_run_reproduces_both_stages(run, tmp_path):
    report = fasticcl.rebalance(run, set=["rebalance.distillation_temperature=2"], name="cooler")
    again = fasticcl.train(config=report.run / "config.toml", project=tmp_path)
    assert not differences(again.run, report.run)


def test_rebalance_accepts_a_run_without_a_second_stage(run, tiny_shards, tmp_path):
    without = train_tiny(tiny_shards, tmp_path, {"rebalance.epochs": 0}).run
    assert not differences(fasticcl.rebalance(without, set=SETTINGS).run, run)
    with pytest.raises(UserError, match=r"rebalance\.epochs is 0"):
        fasticcl.rebalance(without)


def test_stopped_rebalancing_resumes_bit_identically(run, monkeypatch):
    def interrupt(count):
        if count == 2:
            os.kill(os.getpid(), signal.SIGINT)

    record_steps(monkeypatch, interrupt)
    with pytest.raises(Stopped, match="SIGINT") as stopped:
        fasticcl.rebalance(run, name="stopped")
    assert stopped.value.command.endswith("--name stopped --resume")
    monkeypatch.undo()
    assert not differences(resume(run.parent.parent, "stopped").run, run)


def test_error_for_an_unfinished_first_stage_gives_the_resume_command(tiny_shards, tmp_path, monkeypatch):
    record_steps(monkeypatch, lambda count: os.kill(os.getpid(), signal.SIGINT) if count == 4 else None)
    with pytest.raises(Stopped):
        train_tiny(tiny_shards, tmp_path)
    with pytest.raises(UserError, match=r"is not finished. Continue it with: fasticcl train demo .*--resume"):
        fasticcl.rebalance(tmp_path / "demo/run")
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["run"]


def test_moved_run_is_rebalanced_at_its_new_path(run, tmp_path, monkeypatch):
    moved = tmp_path / "elsewhere/demo/mine"
    moved.mkdir(parents=True)
    for name, content in contents(run).items():
        write_file(moved / name, content)
    monkeypatch.chdir(moved)
    report = fasticcl.rebalance(".")
    assert report.run == moved.parent / "mine-rebalance-1"
    assert not differences(report.run, run)


def test_holdout_images_are_drawn_in_neither_stage(tiny_shards, tmp_path, monkeypatch):
    drawn, batch = {}, Plan.batch

    def noted(self, phase, epoch, step):
        planned = batch(self, phase, epoch, step)
        drawn.setdefault(phase, set()).update(row for each in planned.streams for row in each.rows.tolist())
        return planned

    monkeypatch.setattr(Plan, "batch", noted)
    run = train_tiny(tiny_shards, tmp_path, {"data.holdout": 0.3}).run
    fasticcl.rebalance(run, set={"rebalance.epochs": 4, "rebalance.gamma": 0.0})
    holdout_rows = set(draw_holdout_rows(np.array(TINY_COUNTS), 0.3, seed=0).tolist())
    assert len(holdout_rows) == 18
    assert drawn.keys() == {"warmup", "interpolative", "rebalance"}
    for phase in drawn:
        assert len(drawn[phase]) > 20
        assert not drawn[phase] & holdout_rows


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--set", "optim.lr=1"], "optim.lr cannot be set here"),
        (["--set", "engine.seed=1"], "engine.seed cannot be set here"),
        (["--set", "data.holdout=0.1"], "data.holdout cannot be set here"),
        (["--set", "rebalance.distillation_temp=1"], "Did you mean rebalance.distillation_temperature?"),
        (["--set", "rebalnce.gamma=1"], "There is no section 'rebalnce'. Did you mean rebalance?"),
        (["--set", "rebalance.distillation_weight=2"], "rebalance.distillation_weight: "),
        (["--set", "rebalance.epochs=0"], "rebalance.epochs is 0, so there is nothing to run"),
        (["--name", "../other"], "engine.name: "),
        (["--name", "run"], "exists. Choose another --name"),
        (["--device", "gpu"], "torch detects no GPU"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_input_gives_one_line_and_exit_code_2(run, run_cli, monkeypatch, words, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    names = sorted(path.name for path in run.parent.iterdir())
    code, _, error = run_cli("rebalance", run, *words)
    assert code == 2
    assert sentence in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in run.parent.iterdir()) == names


def test_command_line_prints_the_table_and_the_next_command(run, run_cli):
    code, out, _ = run_cli("rebalance", run, "--name", "cli", "--workers", 1)
    assert code == 0
    assert "before rebalancing" in out
    assert out.rstrip().splitlines()[-1].startswith(f"Next: fasticcl report {run} {run.parent / 'cli'}")
    code, _, error = run_cli("rebalance", run.parent)
    assert code == 2
    assert "is not a run folder" in error
