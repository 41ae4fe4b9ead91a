"""Tests of the compile mode: its choice by length or trial, and that a trial does not change the run."""

import itertools
import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.utils import counters

from fasticcl.bench import workload as bench
from fasticcl.bench.workload import open_workload
from fasticcl.data.batch import synthetic_batch
from fasticcl.engine import compile_trial, trainer
from fasticcl.engine.compile_trial import RemainingSteps
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import MODES, Machine
from fasticcl.system.rank_environment import local_rank
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


STEPS = {"demo": 12, "cifar100-lt": 84, "imagenet-lt": 452, "inat2018": 854}  # per epoch
GPU = Machine(torch.device("cuda", 0), bfloat16=True, mode="on")
TRIED = compile_trial.ModeTrial({"off": 3.0, "on": 2.0, "step": 1.0})


def chosen(monkeypatch, dataset, checkpoint=None, machine=GPU, **assignments):
    """Return the choice for a run on a GPU, with a simulated trial that ``step`` wins."""
    monkeypatch.setattr(compile_trial, "try_modes", lambda *_: TRIED)
    config = resolve(dataset, assignments=[f"{name}={value}" for name, value in assignments.items()])
    steps = RemainingSteps.of(config, STEPS[dataset], checkpoint)
    return compile_trial.choose_mode(config, 10, machine, steps)


def at(stage, epoch, step=0):
    return Checkpoint(stage, epoch, step, "", {"network": {}, "optimizer": {}})


@pytest.mark.parametrize(
    ("dataset", "checkpoint", "settings", "mode", "reason"),
    [
        ("demo", None, {}, "off", "720 steps with 32 images of 16×16 pixels would not repay compilation"),
        ("cifar100-lt", None, {}, "on", "16,800 steps of the representation stage with 128 images of 32×32"),
        ("imagenet-lt", None, {}, "step", TRIED.describe()),
        ("inat2018", None, {}, "step", TRIED.describe()),
        ("inat2018", None, {"engine.fast_dev_run": "true"}, "off", "no trial with --fast-dev-run"),
        ("imagenet-lt", at("representation", 1), {}, "step", TRIED.describe()),
        ("imagenet-lt", at("representation", 89, 52), {}, "on", "the remaining 400 steps of the rep"),
        (
            "imagenet-lt",
            at("rebalancing", 0),
            {},
            "on",
            "the representation stage that it measures is finished",
        ),
        ("imagenet-lt", at("rebalancing", 9), {}, "off", "the remaining 452 steps with 256 images"),
    ],
)
def test_automatic_mode_depends_on_the_rest_of_the_run(
    monkeypatch, dataset, checkpoint, settings, mode, reason
):
    choice = chosen(monkeypatch, dataset, checkpoint, **settings)
    assert choice.mode == mode
    assert reason in choice.description
    assert choice.description.startswith(MODES[mode])
    # Only a trial proves that a mode can be compiled.
    assert choice.apply(GPU) == replace(GPU, mode=mode, eager_if_uncompilable=mode != "step")


@pytest.mark.parametrize(
    ("checkpoint", "left"),
    [
        (None, (40, 6)),
        (at("seed", 9, 1), (21, 6)),
        (at("seed", 10), (20, 6)),
        (at("representation", 2, 1), (15, 6)),
        (at("rebalancing", 1), (0, 4)),
    ],
)
def test_steps_of_the_seed_stage_count_as_the_representation_stage(checkpoint, left):
    options = {"optim": {"epochs": 10}, "rebalance": {"epochs": 3}}
    config = resolve("demo", method="m2m", options=options)
    assert RemainingSteps.of(config, 2, checkpoint) == RemainingSteps(*left)


def test_images_of_a_step_are_those_of_one_rank(monkeypatch):
    ranks = SimpleNamespace(world_size=16, run_on_main=lambda decide: decide())
    choice = chosen(monkeypatch, "imagenet-lt", machine=replace(GPU, ranks=ranks), **{"optim.epochs": 60})
    assert choice.mode == "on"
    assert "with 16 images" in choice.description


@pytest.mark.parametrize("dataset", STEPS)
def test_a_requested_mode_and_a_cpu_have_no_trial_and_no_reason(monkeypatch, dataset):
    for mode in MODES:
        machine = replace(GPU, mode=mode)
        choice = chosen(monkeypatch, dataset, machine=machine, **{"engine.compile": mode})
        assert choice.apply(machine) == machine
        assert choice.description == ""
    choice = chosen(monkeypatch, dataset, machine=CPU)
    assert choice.apply(CPU) == CPU
    assert choice.description == ""


@pytest.fixture
def tried(monkeypatch):
    """Results of trials, which also run on this CPU, with real stages and a no-op torch.compile."""
    results, try_modes = [], compile_trial.try_modes

    def keep(*arguments):
        results.append(try_modes(*arguments))
        return results[-1]

    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(compile_trial, "is_automatic", lambda *_: True)
    monkeypatch.setattr(compile_trial, "step_seconds", lambda *_: 1000.0)
    monkeypatch.setattr(compile_trial, "try_modes", keep)
    return results


@pytest.mark.parametrize("method", ["iccl", "ce"])
def test_trial_does_not_change_the_run(tried, monkeypatch, tiny_shards, tmp_path, method):
    output = ConsoleOutput()
    with_trial = train_tiny(tiny_shards, tmp_path, name="with", method=method, console=output.console).run
    monkeypatch.setattr(compile_trial, "is_automatic", lambda *_: False)
    without = train_tiny(tiny_shards, tmp_path, name="without", method=method).run
    assert [*tried[0].milliseconds] == ["off", "on", "step"]
    assert tried[0].failures == {}
    assert f"mode     {tried[0].describe()}\n" in output.file.getvalue()
    assert differences(with_trial, without) == []


def test_trial_measures_the_phase_before_the_cooldown(monkeypatch):
    config = resolve("demo", method="cmo", assignments=["method.encoder=resnet8"])
    assert config.phase(config.optim.epochs - 1) == "warmup"
    phases = []
    monkeypatch.setattr(compile_trial, "synthetic_batch", lambda phase, *_: phases.append(phase))
    monkeypatch.setattr(compile_trial, "time_modes", lambda modes, start, _: start(modes[0]))
    compile_trial.try_modes(config, 10, CPU)
    assert phases == ["interpolative"]


def test_training_uses_the_fastest_mode(monkeypatch, tiny_shards, tmp_path):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda module, **mode: compiled.append(mode) or module)
    for mode, expected in (("off", []), ("on", ["default"] * 3), ("cuda-graphs", ["reduce-overhead"] * 3)):
        choice = compile_trial.ModeChoice(mode, "reason")
        monkeypatch.setattr(trainer, "choose_mode", lambda *_, choice=choice: choice)
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
        patched.setattr(compile_trial, "is_automatic", lambda *_: True)
        # Only rank 0 decides, so the estimate of another rank must not matter.
        patched.setattr(compile_trial, "step_seconds", lambda *_: 1000.0 * (local_rank() == 0))
        patched.setattr(compile_trial, "try_modes", won)
        train_tiny(shards, project, {"engine.sync_bn": True})
    return [[*each.milliseconds] for each in calls], len(compiled)


def test_only_rank_0_tries_modes_and_shares_the_result(tiny_shards, tmp_path):
    first, other = on_ranks(tmp_path / "log", 2, tries, tiny_shards, tmp_path)
    assert first == ([["off", "on"]], 3 + 1)  # one of them in the trial
    assert other == ([], 3)


def test_bench_uses_the_mode_that_training_would_choose(monkeypatch, tiny_shards, tmp_path):
    workload = open_workload(tmp_path, "demo", data=tiny_shards, assignments=["method.encoder=resnet8"])
    assert workload.in_training_mode(print) is workload
    monkeypatch.setattr(bench, "is_automatic", lambda *_: True)
    monkeypatch.setattr(compile_trial, "is_automatic", lambda *_: True)
    measured = workload.in_training_mode(lambda _: None)
    assert measured.machine.mode == "off"
    assert measured.notes[-1].startswith("mode: eager (engine.compile=auto: the remaining 60 steps")
    monkeypatch.setattr(compile_trial, "try_modes", lambda *_: TRIED)
    long = replace(workload, generated=SimpleNamespace()).in_training_mode(lambda _: None)
    assert long.machine.mode == "step"
    assert long.notes[-1] == f"mode: {TRIED.describe()}"


class Small(torch.nn.Sequential):
    """A network that inductor compiles in a few seconds."""

    def __init__(self):
        super().__init__(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1))
        self.append(torch.nn.Flatten())


@pytest.fixture
def small(monkeypatch):
    """A configuration without centroids, whose encoder is `Small`."""
    monkeypatch.setattr("fasticcl.method.network.build_encoder", lambda _: (Small(), 4))
    torch.compiler.reset()
    yield resolve("demo", method="ce", assignments=["optim.batch_size=4", "data.image_size=8"])
    torch.compiler.reset()


def take_step(config, machine):
    """Take a training step in a new stage and return its loss."""
    torch.manual_seed(0)
    stage = Representation(config, 3, machine)
    return learn(stage, synthetic_batch("warmup", 4, 8, 3, machine.device))["loss"].item()


def test_run_reuses_the_compiled_code_of_the_trial(monkeypatch, tmp_path, small):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch._inductor.config, "compile_threads", 1)  # no worker process
    # Compiling the headers and programs that test the instruction sets takes seconds.
    monkeypatch.setattr(torch._inductor.config, "cpp_cache_precompile_headers", False)
    monkeypatch.setattr("torch._inductor.cpu_vec_isa.valid_vec_isa_list", list)
    counters.clear()
    trial = compile_trial.try_modes(small, 3, CPU, ("off", "on"))
    assert trial.failures == {}
    assert counters["inductor"]["fxgraph_cache_miss"] == 2  # forward and backward
    counters.clear()
    take_step(small, replace(CPU, mode="on"))
    assert counters["aot_autograd"]["autograd_cache_hit"] == 1
    assert counters["inductor"]["fxgraph_cache_hit"] == 2
    assert counters["inductor"]["fxgraph_cache_miss"] == 0


def test_training_is_eager_if_compilation_fails_without_a_trial(monkeypatch, small):
    def fail(*_):
        raise RuntimeError("Failed to find C compiler")

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile_(module, backend=fail))
    untried = compile_trial.ModeChoice("on", "compiled (engine.compile=auto: no trial)").apply(CPU)
    assert take_step(small, untried) == take_step(small, CPU)
    torch.compiler.reset()
    with pytest.raises(Exception, match="Failed to find C compiler"):
        take_step(small, compile_trial.ModeChoice("on").apply(CPU))
