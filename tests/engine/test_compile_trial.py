"""The trial of modes before training: what it chooses, what it says, and that it leaves no trace."""

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
from tests.support.small_runs import Heard, differences, start_tiny

CPU = Machine(torch.device("cpu"), bfloat16=False, mode="off")


class Modes:
    """Modes whose steps take as many seconds as is said, on a clock of their own."""

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

    def tried(self):
        return compile_trial.time_modes((*self.seconds,), self.start, CPU, clock=lambda: self.now)


def test_the_fastest_mode_is_chosen_and_the_others_are_named():
    trial = Modes(off=0.0183, on=0.0142, cuda_graphs=0.0121).tried()
    assert trial.fastest == "cuda-graphs"
    assert trial.describe() == "compiled with CUDA graphs: 12.1 ms per step (eager 18.3; compiled 14.2)"


def test_eager_is_chosen_where_it_is_the_fastest():
    trial = Modes(off=0.010, on=0.011).tried()
    assert trial.fastest == "off"
    assert trial.describe() == "eager: 10.0 ms per step (compiled 11.0)"


def test_neither_compiling_nor_one_slow_moment_counts():
    def compiled(step):
        return 60 if step <= 3 else 3 if step == 9 else 0.005

    trial = Modes(off=0.010, on=compiled).tried()
    assert trial.fastest == "on"
    assert trial.milliseconds["on"] == pytest.approx(5)


def test_a_mode_that_fails_is_named_and_skipped():
    trial = Modes(off=0.010, on=RuntimeError("no compiler\nand a long story"), cuda_graphs=0.005).tried()
    assert trial.fastest == "cuda-graphs"
    assert trial.describe().endswith("(eager 10.0; compiled failed: RuntimeError: no compiler)")


def test_a_loss_that_is_no_number_is_not_what_the_others_are_held_to():
    trial = Modes(off=0.010, on=0.011)
    trial.losses["off"] = itertools.repeat(math.nan)
    tried = trial.tried()
    assert tried.fastest == "on"
    assert tried.failures == {"off": "loss is nan"}


def test_a_mode_that_fails_in_its_last_step_is_skipped_too():
    def breaks(step):
        if step > 10:
            raise RuntimeError("overwritten by a subsequent run")
        return 0.001

    trial = Modes(off=0.010, cuda_graphs=breaks).tried()
    assert trial.fastest == "off"
    assert trial.failures == {"cuda-graphs": "RuntimeError: overwritten by a subsequent run"}


def test_a_fast_mode_that_computes_another_loss_is_skipped():
    modes = Modes(off=0.010, on=0.001)
    modes.losses["on"] = [2.0] * 5 + [2.2] * 100
    assert modes.tried().fastest == "off"
    assert modes.tried().failures["on"] == "loss is 2.200, not 2.000"


def test_where_nothing_works_training_is_eager_and_says_why_itself():
    trial = Modes(off=RuntimeError("out of memory"), on=RuntimeError("out of memory")).tried()
    assert trial.fastest == "off"
    assert trial.describe().startswith("eager (eager failed: RuntimeError: out of memory; compiled failed")


def test_bad_input_is_not_taken_for_a_mode_that_fails():
    with pytest.raises(UserError, match="no encoder"):
        Modes(off=UserError("There is no encoder 'x'.")).tried()


def test_a_cpu_has_no_trial_and_a_gpu_has_one_unless_the_mode_is_said():
    gpu = Machine(torch.device("cuda", 0), bfloat16=True, mode="on")
    config = resolve("demo")
    assert compile_trial.wants_trial(config, gpu)
    assert not compile_trial.wants_trial(config, CPU)
    for said in ("off", "on", "step", "cuda-graphs"):
        assert not compile_trial.wants_trial(resolve("demo", assignments=[f"engine.compile={said}"]), gpu)


@pytest.fixture
def tried(monkeypatch):
    """Training has its trial on this CPU, too, in real stages; compiling leaves modules as they are."""
    results, try_modes = [], compile_trial.try_modes

    def keep(*arguments):
        results.append(try_modes(*arguments))
        return results[-1]

    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: True)
    monkeypatch.setattr(trainer, "try_modes", keep)
    return results


@pytest.mark.parametrize("method", ["iccl", "ce"])
def test_a_run_with_a_trial_is_the_run_without_to_the_bit(tried, monkeypatch, tiny_shards, tmp_path, method):
    heard = Heard()
    with_trial = start_tiny(tiny_shards, tmp_path, name="with", method=method, console=heard.console).run
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: False)
    without = start_tiny(tiny_shards, tmp_path, name="without", method=method).run
    assert [*tried[0].milliseconds] == ["off", "on", "step"]
    assert tried[0].failures == {}
    assert f"mode     {tried[0].describe()}\n" in heard.file.getvalue()
    assert differences(with_trial, without) == []


def test_the_mode_that_won_is_the_one_that_trains(monkeypatch, tiny_shards, tmp_path):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **mode: compiled.append(mode) or module)
    monkeypatch.setattr(trainer, "wants_trial", lambda *_: True)
    for mode, expected in (("off", []), ("on", ["default"] * 3), ("cuda-graphs", ["reduce-overhead"] * 3)):
        monkeypatch.setattr(trainer, "try_modes", lambda *_, mode=mode: compile_trial.ModeTrial({mode: 1.0}))
        compiled.clear()
        start_tiny(tiny_shards, tmp_path, name=mode)
        assert [each["mode"] for each in compiled] == expected  # network, then classifier and frozen encoder


def tries(shards, project):
    """Train, and return the ranks' part in the trial, and whether this rank computed in the mode that won."""
    calls, compiled, try_modes = [], [], compile_trial.try_modes

    def won(*arguments):
        calls.append(try_modes(*arguments))
        return compile_trial.ModeTrial({"off": 2.0, "on": 1.0})

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch, "compile", lambda module, **_: compiled.append(1) or module)
        patched.setattr(trainer, "wants_trial", lambda *_: True)
        patched.setattr(trainer, "try_modes", won)
        start_tiny(shards, project, {"engine.sync_bn": True})
    return [[*each.milliseconds] for each in calls], len(compiled)


def test_the_first_of_several_ranks_tries_alone_and_tells_the_others(tiny_shards, tmp_path):
    first, other = on_ranks(tmp_path / "log", 2, tries, tiny_shards, tmp_path)
    assert first == ([["off", "on"]], 3 + 1)  # the trial compiles the network once more
    assert other == ([], 3)


def test_the_bench_measures_in_the_mode_that_training_would_choose(monkeypatch, tiny_shards, tmp_path):
    workload = open_workload(tmp_path, "demo", data=tiny_shards, assignments=["method.encoder=resnet8"])
    assert workload.in_training_mode(print) is workload
    monkeypatch.setattr(bench, "wants_trial", lambda *_: True)
    monkeypatch.setattr(bench, "try_modes", lambda *_: compile_trial.ModeTrial({"off": 2.0, "on": 1.0}))
    measured = workload.in_training_mode(lambda _: None)
    assert measured.machine.mode == "on"
    assert measured.notes[-1] == "mode: compiled: 1.0 ms per step (eager 2.0)"
