"""Captured training steps, with a recorder that behaves like a CUDA graph on a CPU."""

import copy
import gc
import os
import signal
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

from fasticcl.data.batch import synthetic_batch, tensors_of
from fasticcl.engine.captured_step import CapturedStep, CudaGraph, captured_step
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.second_stage import build_rebalancing
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import Stopped, UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import Machine, choose_machine
from tests.support.small_runs import metrics, record_steps, resume, same_weights, train_tiny

CPU, CLASSES = torch.device("cpu"), 5


class Replayed:
    """Records a step without its effects. A replay repeats it on the tensors that it used while recording."""

    recorded = replays = 0

    def __init__(self, stage):
        self.stage = stage

    def tensors(self):
        """Return all tensors that a step reads and a step or an epoch changes.

        A graph knows them by their address.
        """
        buffers = self.stage.optimizer.state.values()
        momenta = [state["momentum_buffer"] for state in buffers]
        bank = [*self.stage.bank.buffers()] if hasattr(self.stage, "bank") else []
        loss = getattr(self.stage, "classification", None)
        weights = [loss.weights.value] if loss and loss.weights else []
        alpha = [self.stage.alpha] if hasattr(self.stage, "alpha") else []
        return [*self.stage.network.state_dict().values(), *momenta, *bank, *weights, *alpha]

    def warm_up(self, function):
        return function()

    def record(self, function):
        Replayed.recorded += 1
        self.function, self.addresses = function, self.tensors()
        before = [tensor.clone() for tensor in self.addresses]
        self.output = function()
        for tensor, value in zip(self.addresses, before, strict=True):
            tensor.data.copy_(value)
        return self.output

    def replay(self):
        Replayed.replays += 1
        groups = self.stage.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        set_lr(self.stage.optimizer, float("nan"))  # a graph reads no Python numbers
        self.output.copy_(self.function())
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate
        assert [t.data_ptr() for t in self.tensors()] == [t.data_ptr() for t in self.addresses]


@pytest.fixture(autouse=True)
def _counts():
    Replayed.recorded = Replayed.replays = 0


def make_stages(*assignments, method=None):
    torch.manual_seed(0)
    small = ["method.encoder=resnet8", "method.embedding_dim=8", "engine.device=cpu"]
    config = resolve("demo", method=method, assignments=[*small, *assignments])
    machine = choose_machine(config.engine)
    first = build_first_stage(config, CLASSES, machine, np.array([50, 20, 10, 2, 1]))
    return first, lambda: build_rebalancing(config, copy.deepcopy(first.network), machine)


def batches(phase, count, size=6, mixed=True):
    """Return batches of different images that all have the same shape."""
    each = synthetic_batch(phase, size * count, 16, CLASSES, CPU, mixed)
    parts = zip(*(value.split(size) for value in tensors_of(each).values()), strict=True)
    return [type(each)(*part) for part in parts]


def run(stage, given, step, epochs=(0,)):
    """Take steps whose learning rate changes, and return the losses and the final state.

    Each of the epochs has the same number of steps.
    """
    losses = []
    for number, batch in enumerate(given):
        if number % (len(given) // len(epochs)) == 0:
            stage.begin_epoch(epochs[number * len(epochs) // len(given)])
        set_lr(stage.optimizer, 0.1 / (1 + number))
        losses.append(step(stage, batch))
    return losses, copy.deepcopy(stage.state_dict())


def same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


@pytest.mark.parametrize(
    "assignments",
    [(), ("method.uniform_weight=0",), ("method.centroid_norm=bias_corrected", "method.bn_mode=split")],
    ids=str,
)
@pytest.mark.parametrize("phase", ["warmup", "interpolative"])
def test_captured_steps_equal_ordinary_steps(phase, assignments):
    given, (stage, _), (other, _) = batches(phase, 8), make_stages(*assignments), make_stages(*assignments)
    captured = CapturedStep(
        lambda *inputs: type(given[0])(*inputs), CPU, pytest.fail, lambda: Replayed(stage)
    )
    assert same(run(stage, given, captured), run(other, given, learn))
    assert (Replayed.recorded, Replayed.replays) == (1, 5)


@pytest.mark.parametrize("method", ["ldam-drw", "iccl"])
def test_class_weights_that_start_in_a_later_epoch_reach_a_captured_step(method):
    phase = "warmup" if method == "ldam-drw" else "interpolative"
    settings = ("optim.epochs=4", "method.class_weight_beta=0.9", "method.class_weight_start=0.5")
    given, (stage, _), (other, _) = batches(phase, 12), *(make_stages(*settings, method=method) for _ in "ab")
    captured = CapturedStep(
        lambda *inputs: type(given[0])(*inputs), CPU, pytest.fail, lambda: Replayed(stage)
    )
    losses, state = run(stage, given, captured, epochs=(1, 2))
    assert same((losses, state), run(other, given, learn, epochs=(1, 2)))
    assert (Replayed.recorded, Replayed.replays) == (1, 9)
    unweighted = run(make_stages(*settings, method=method)[0], given, learn, epochs=(1, 1))[0]
    assert [same(one, another) for one, another in zip(losses, unweighted, strict=True)] == [
        step < 6 for step in range(12)
    ]


def test_the_momentum_of_the_feature_mean_in_a_later_epoch_reaches_a_captured_step():
    given, stages = batches("warmup", 12), [make_stages("optim.epochs=4", method="tde")[0] for _ in "abc"]
    captured = CapturedStep(
        lambda *inputs: type(given[0])(*inputs), CPU, pytest.fail, lambda: Replayed(stages[0])
    )
    results = run(stages[0], given, captured, epochs=(2, 3))
    assert same(results, run(stages[1], given, learn, epochs=(2, 3)))
    assert (Replayed.recorded, Replayed.replays) == (1, 9)
    mean = results[1]["network"]["classifier.mean"]
    assert not torch.equal(mean, run(stages[2], given, learn, epochs=(2, 2))[1]["network"]["classifier.mean"])


def test_weights_of_the_tails_in_a_later_epoch_reach_a_captured_step_of_bbn():
    given, settings = batches("interpolative", 12, mixed=False), ("optim.epochs=4",)
    (stage, _), (other, _) = (make_stages(*settings, method="bbn") for _ in "ab")
    captured = CapturedStep(
        lambda *inputs: type(given[0])(*inputs), CPU, pytest.fail, lambda: Replayed(stage)
    )
    losses, state = run(stage, given, captured, epochs=(0, 3))
    assert same((losses, state), run(other, given, learn, epochs=(0, 3)))
    assert (Replayed.recorded, Replayed.replays) == (1, 9)


SHIFTED = (
    "rebalance.encoder=frozen",
    "rebalance.batch_norm=train",
    "rebalance.class_scale=true",
    "rebalance.classifier_lr_factor=0.2",
    "rebalance.smoothing_head=0.4",
)


MEMORY = ("rebalance.encoder=tuned", "rebalance.classifier=memory")


@pytest.mark.parametrize(
    "settings", [("rebalance.encoder=frozen",), ("rebalance.encoder=tuned",), SHIFTED, MEMORY], ids=str
)
def test_captured_rebalancing_steps_equal_ordinary_steps(settings):
    given = batches("rebalance", 6)
    stage, other = (make_stages(*settings)[1]() for _ in range(2))
    captured = CapturedStep(
        lambda *inputs: type(given[0])(*inputs), CPU, pytest.fail, lambda: Replayed(stage)
    )
    assert same(run(stage, given, captured), run(other, given, learn))
    assert (Replayed.recorded, Replayed.replays) == (1, 3)


def test_only_a_gpu_captures_the_steps_of_the_mode_captured():
    given, (stage, _), (other, _) = batches("interpolative", 2), make_stages(), make_stages()
    machine = Machine(CPU, bfloat16=False, mode="captured")
    step = captured_step(type(given[0]), machine, pytest.fail)
    assert same(run(stage, given, step), run(other, given, learn))
    gpu = captured_step(type(given[0]), replace(machine, device=torch.device("cuda", 0)), pytest.fail)
    assert isinstance(gpu, CapturedStep)


def test_a_failed_capture_is_reported_once_and_training_goes_on():
    class Failing(Replayed):
        def record(self, function):
            Replayed.recorded += 1
            function()
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            finally:
                raise RuntimeError("operation failed due to a previous error")  # as the end of the capture

    warmup, interpolative, warnings = batches("warmup", 5), batches("interpolative", 5), []
    stage = make_stages()[0]
    kinds = {len(tensors_of(given[0])): type(given[0]) for given in (warmup, interpolative)}
    captured = CapturedStep(
        lambda *inputs: kinds[len(inputs)](*inputs), CPU, warnings.append, lambda: Failing(stage)
    )
    losses, _ = run(stage, warmup + interpolative, captured)
    assert all(loss["loss"].isfinite() for loss in losses)
    assert Replayed.recorded == len(warnings) == 1
    assert warnings[0].endswith("runs eagerly: operation not permitted when stream is capturing")


def test_a_failed_capture_restores_the_stream_and_a_capture_begins_without_garbage(monkeypatch):
    """CUDA is replaced, because only a GPU can capture."""
    calls = []

    class Graph:
        def __init__(self, _, capture_error_mode, **__):
            calls.append(capture_error_mode)

        def __enter__(self):
            calls.append("begin")

        def __exit__(self, *_):
            raise RuntimeError("the capture is invalid")

    @contextmanager
    def stream(name):
        try:
            yield
        finally:
            calls.append(f"back to {name}")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", object)
    monkeypatch.setattr(torch.cuda, "Stream", lambda: "side")
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: "main")
    monkeypatch.setattr(torch.cuda, "graph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(gc, "collect", lambda: calls.append("collect"))
    with pytest.raises(RuntimeError, match="invalid"):
        CudaGraph().record(lambda: torch.zeros(()))
    assert calls == ["collect", "thread_local", "begin", "back to main"]


def test_every_phase_has_a_graph_of_its_own():
    warmup, interpolative = batches("warmup", 5), batches("interpolative", 5)
    stage, other = make_stages()[0], make_stages()[0]
    kinds = {len(tensors_of(given[0])): type(given[0]) for given in (warmup, interpolative)}
    captured = CapturedStep(
        lambda *inputs: kinds[len(inputs)](*inputs), CPU, pytest.fail, lambda: Replayed(stage)
    )
    assert same(run(stage, warmup + interpolative, captured), run(other, warmup + interpolative, learn))
    assert (Replayed.recorded, Replayed.replays) == (2, 4)


def test_a_run_on_a_cpu_is_bit_identical_to_a_run_with_the_graph(tiny_shards, tmp_path):
    for mode in ("off", "captured"):
        train_tiny(tiny_shards, tmp_path, {"engine.compile": mode, "rebalance.encoder": "tuned"}, name=mode)
    assert metrics(tmp_path / "demo/captured") == metrics(tmp_path / "demo/off")
    assert same_weights(tmp_path / "demo/captured", tmp_path / "demo/off")


def test_a_stopped_and_resumed_run_is_bit_identical(tiny_shards, tmp_path, monkeypatch):
    settings = {"engine.compile": "captured", "data.cache": "off"}
    train_tiny(tiny_shards, tmp_path, settings, name="whole")
    with monkeypatch.context() as patched:
        record_steps(patched, lambda count: os.kill(os.getpid(), signal.SIGTERM) if count == 5 else None)
        with pytest.raises(Stopped):
            train_tiny(tiny_shards, tmp_path, settings, name="stopped")
    resume(tmp_path, "stopped")
    assert metrics(tmp_path / "demo/stopped") == metrics(tmp_path / "demo/whole")
    assert same_weights(tmp_path / "demo/stopped", tmp_path / "demo/whole")


def test_images_that_need_dali_are_an_error(tiny_shards, tmp_path):
    settings = {"engine.compile": "captured", "data.crop": "random_resized"}
    with pytest.raises(
        UserError, match=r"captured cannot be used: data\.crop is random_resized, not pad\. Use"
    ):
        train_tiny(tiny_shards, tmp_path, settings)
    assert not [*tmp_path.iterdir()]
