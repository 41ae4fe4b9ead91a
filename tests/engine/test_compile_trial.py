"""Tests of the compile-mode trial: its choice, its description, and that it does not change the run."""

import itertools
import math

import pytest
import torch

from fasticcl.bench import workload as bench
from fasticcl.bench.workload import open_workload
from fasticcl.engine import compile_trial, trainer
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import Machine
from tests.support.processes import on_ranks
from tests.support.small_runs import ConsoleOutput, differences, train_tiny

CPU = Machine(torch.device("cpu"), bfloat16=False, mode="off")


class Modes:
    """Modes whose steps take given seconds on a simulated clock."""

    def __init__(self, **seconds):
        self.seconds, self.now = {name.replace("_", "-"): each for name, each in seconds.items()}, 0.0
        self.losses, self.steps = {}, {}

    def start(self, mode):
        if isinstance(failure := self.seconds[mode], Exception):
            raise failure
        durations, losses = (
            self.seconds[mode],
            itertools.chain(self.losses.get(mode, ()), itertools.repeat(2.0)),
        )

        def step():
            self.steps[mode] = self.steps.get(mode, 0) + 1
            self.now += durations(self.steps[mode]) if callable(durations) else durations
            return torch.tensor(next(losses))

        return step

    def run_trial(self):
        return compile_trial.time_modes((*self.seconds,), self.start, CPU, clock=lambda: self.now)


def test_fastest_mode_is_chosen_and_the_others_are_listed():
    trial = Modes(off=0.0183, on=0.0142, cuda_graphs=0.0121).run_trial()
    assert trial.fastest == "cuda-graphs"
    assert trial.describe() == "compiled with CUDA graphs: 12.1 ms per step (eager 18.3; compiled 14.2)"


def test_eager_is_chosen_if_it_is_the_fastest():
    trial = Modes(off=0.010, on=0.011).run_trial()
    assert trial.fastest == "off"
    assert trial.describe() == "eager: 10.0 ms per step (compiled 11.0)"


def test_compilation_and_one_slow_step_are_excluded():
    def compiled(step):
        return 60 if step <= 3 else 3 if step == 9 else 0.005

    trial = Modes(off=0.010, on=compiled).run_trial()
    assert trial.fastest == "on"
    assert trial.milliseconds["on"] == pytest.approx(5)


def test_failing_mode_is_listed_and_skipped():
    trial = Modes(off=0.010, on=RuntimeError("no compiler\nand a long story"), cuda_graphs=0.005).run_trial()
    assert trial.fastest == "cuda-graphs"
    assert trial.describe().endswith("(eager 10.0; compiled failed: RuntimeError: no compiler)")


def test_non_finite_loss_is_not_the_reference():
    trial = Modes(off=0.010, on=0.011)
    trial.losses["off"] = itertools.repeat(math.nan)
    tried = trial.run_trial()
    assert tried.fastest == "on"
    assert tried.failures == {"off": "loss is nan"}


def test_mode_that_fails_in_its_last_step_is_skipped():
    def breaks(step):
        if step > 10:
            raise RuntimeError("overwritten by a subsequent run")
        return 0.001

    trial = Modes(off=0.010, cuda_graphs=breaks).run_trial()
    assert trial.fastest == "off"
    assert trial.failures == {"cuda-graphs": "RuntimeError: overwritten by a subsequent run"}


def test_mode_with_a_different_loss_is_skipped():
    modes = Modes(off=0.010, on=0.001)
    modes.losses["on"] = [2.0] * 5 + [2.2] * 100
    assert modes.run_trial().fastest == "off"
    assert modes.run_trial().failures["on"] == "loss is 2.200, not 2.000"


def test_eager_is_chosen_if_no_mode_works():
    trial = Modes(off=RuntimeError("out of memory"), on=RuntimeError("out of memory")).run_trial()
    assert trial.fastest == "off"
    assert trial.describe().startswith("eager (eager failed: RuntimeError: out of memory; compiled failed")


def test_bad_input_is_not_a_failing_mode():
    with pytest.raises(UserError, match="no encoder"):
        Modes(off=UserError("There is no encoder 'x'.")).run_trial()


def test_trial_requires_a_gpu_and_the_auto_mode():
    gpu = Machine(torch.device("cuda", 0), bfloat16=True, mode="on")
    config = resolve("demo")
    assert compile_trial.wants_trial(config, gpu)
    assert not compile_trial.wants_trial(config, CPU)
    for mode in ("off", "on", "step", "cuda-graphs"):
        assert not compile_trial.wants_trial(resolve("demo", assignments=[f"engine.compile={mode}"]), gpu)


@pytest.fixture
def tried(monkeypatch):
    """Results of trials, which also run on this CPU, with real stages and a no-op torch.compile."""
    results, try_modes = [], compile_trial.try_modes

    def keep(*arguments):
        results.append(try_modes(*arguments))
        return results[-1]

    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: True)
    monkeypatch.setattr(trainer, "try_modes", keep)
    return results


@pytest.mark.parametrize("method", ["iccl", "ce"])
def test_trial_does_not_change_the_run(tried, monkeypatch, tiny_shards, tmp_path, method):
    output = ConsoleOutput()
    with_trial = train_tiny(tiny_shards, tmp_path, name="with", method=method, console=output.console).run
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: False)
    without = train_tiny(tiny_shards, tmp_path, name="without", method=method).run
    assert [*tried[0].milliseconds] == ["off", "on", "step"]
    assert tried[0].failures == {}
    assert f"mode     {tried[0].describe()}\n" in output.file.getvalue()
    assert differences(with_trial, without) == []


def test_training_uses_the_fastest_mode(monkeypatch, tiny_shards, tmp_path):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **mode: compiled.append(mode) or module)
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: True)
    for mode, expected in (("off", []), ("on", ["default"] * 3), ("cuda-graphs", ["reduce-overhead"] * 3)):
        monkeypatch.setattr(trainer, "try_modes", lambda *_, mode=mode: compile_trial.ModeTrial({mode: 1.0}))
        compiled.clear()
        train_tiny(tiny_shards, tmp_path, name=mode)
        assert [each["mode"] for each in compiled] == expected  # network, classifier and frozen encoder


def tries(shards, project):
    """Train, and return the modes that this rank tried and its number of compilations."""
    calls, compiled, try_modes = [], [], compile_trial.try_modes

    def won(*arguments):
        calls.append(try_modes(*arguments))
        return compile_trial.ModeTrial({"off": 2.0, "on": 1.0})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "compile", lambda module, **_: compiled.append(1) or module)
        patched.setattr(trainer, "wants_trial", lambda *_: True)
        patched.setattr(trainer, "try_modes", won)
        train_tiny(shards, project, {"engine.sync_bn": True})
    return [[*each.milliseconds] for each in calls], len(compiled)


def test_only_rank_0_tries_modes_and_shares_the_result(tiny_shards, tmp_path):
    first, other = on_ranks(tmp_path / "log", 2, tries, tiny_shards, tmp_path)
    assert first == ([["off", "on"]], 3 + 1)  # one of them in the trial
    assert other == ([], 3)


def test_bench_uses_the_mode_that_training_would_choose(monkeypatch, tiny_shards, tmp_path):
    workload = open_workload(tmp_path, "demo", data=tiny_shards, assignments=["method.encoder=resnet8"])
    assert workload.in_training_mode(print) is workload
    monkeypatch.setattr(bench, "wants_trial", lambda *_: True)
    monkeypatch.setattr(bench, "try_modes", lambda *_: compile_trial.ModeTrial({"off": 2.0, "on": 1.0}))
    measured = workload.in_training_mode(lambda _: None)
    assert measured.machine.mode == "on"
    assert measured.notes[-1] == "mode: compiled: 1.0 ms per step (eager 2.0)"
