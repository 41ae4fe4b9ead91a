"""The machine of a configuration: device, precision, mode and ranks, on simulated hardware."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from fasticcl.config import Engine
from fasticcl.errors import UserError
from fasticcl.system import machine
from fasticcl.system.machine import MODES, Machine, choose_machine
from fasticcl.system.ranks import Ranks


@pytest.fixture
def gpus(monkeypatch):
    """Simulate a number of GPUs and return the indices of the devices that were selected."""

    def simulate(count):
        selected = []
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", selected.append)
        return selected

    monkeypatch.setattr(machine, "join_process_group", lambda _: Ranks())
    return simulate


def eager(**settings):
    return Machine(torch.device("cpu"), **{"bfloat16": False, "mode": "off"} | settings)


@pytest.mark.parametrize(
    ("count", "settings", "expected"),
    [
        (0, {}, ("cpu", False, "off")),
        (1, {}, ("cuda:0", True, "on")),
        (1, {"device": "cpu"}, ("cpu", False, "off")),
        (1, {"precision": "float32", "compile": "off"}, ("cuda:0", False, "off")),
        (0, {"precision": "bfloat16", "compile": "step"}, ("cpu", True, "step")),
        (1, {"compile": "cuda-graphs"}, ("cuda:0", True, "cuda-graphs")),
        (0, {"compile": "cuda-graphs"}, ("cpu", False, "on")),
        (1, {"compile": "captured"}, ("cuda:0", True, "captured")),
        (0, {"compile": "captured"}, ("cpu", False, "captured")),
    ],
    ids=str,
)
def test_device_precision_and_mode_follow_the_hardware_and_the_settings(gpus, count, settings, expected):
    gpus(count)
    chosen = choose_machine(Engine(**settings))
    assert (str(chosen.device), chosen.bfloat16, chosen.mode) == expected
    assert chosen.gpu == (0 if expected[0] == "cuda:0" else None)
    assert chosen.compiled == (expected[2] not in ("off", "captured"))


def test_each_rank_uses_its_own_gpu(gpus, monkeypatch):
    selected = gpus(2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_machine(Engine()).gpu == 1
    assert selected == [1]


@pytest.mark.parametrize(
    ("count", "environment", "settings", "sentence"),
    [
        (0, {}, {"device": "gpu"}, r"--device gpu: torch detects no GPU\. .* or use --device cpu\.$"),
        (2, {"LOCAL_RANK": "2"}, {}, r"more ranks on this machine than GPUs \(2\)\. Start one rank for each"),
        (
            0,
            {"WORLD_SIZE": "2"},
            {"compile": "step"},
            r"supports only one rank\. Use --set engine\.compile=auto",
        ),
    ],
    ids=["no GPU", "too many ranks", "compiled steps on two ranks"],
)
def test_impossible_settings_are_rejected(gpus, monkeypatch, count, environment, settings, sentence):
    gpus(count)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        choose_machine(Engine(**settings))


def test_a_process_alone_joins_no_ranks(gpus, monkeypatch):
    gpus(0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(machine, "join_process_group", lambda _: pytest.fail("joined"))
    assert choose_machine(Engine(compile="step"), alone=True).ranks.world_size == 1


@pytest.mark.parametrize("mode", MODES)
def test_only_the_parts_that_the_mode_names_are_compiled(monkeypatch, mode):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda part, **options: compiled.append((part, options)) or part)
    chosen, module = eager(mode=mode), torch.nn.Linear(1, 1)
    chosen.compile_forward(module)
    chosen.compile_losses(len)
    assert (
        compiled
        == {
            "off": [],
            "captured": [],
            "on": [(module, {"mode": "default"})],
            "step": [(len, {})],
            "cuda-graphs": [(module, {"mode": "reduce-overhead"})],
        }[mode]
    )


@pytest.mark.parametrize("bfloat16", [False, True])
def test_forward_passes_have_the_precision_of_the_machine(bfloat16):
    chosen, x = eager(bfloat16=bfloat16), torch.ones(2, 3)
    with chosen.autocast():
        assert (x @ x.T).dtype == (torch.bfloat16 if bfloat16 else torch.float32)


def test_modules_are_moved_to_channels_last():
    module = eager().to_device(torch.nn.Conv2d(3, 4, 3))
    assert module.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("threads", "text"), [(1, "1 thread"), (8, "8 threads")])
def test_description_names_device_precision_and_mode(monkeypatch, threads, text):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert eager().describe() == f"CPU, {text}, float32, eager, torch {torch.__version__}"
    text = eager(bfloat16=True, mode="step", ranks=SimpleNamespace(world_size=2)).describe()
    assert text.startswith("2 ranks of CPU, ")
    assert ", bfloat16, compiled with losses and centroids, " in text


@pytest.fixture
def process_group():
    """A process group with one rank."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("process_group")
def test_compiled_graph_of_several_ranks_is_split_at_the_gradient_buckets(monkeypatch):
    """Otherwise, gradients would be exchanged only after the whole backward pass."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    compile = torch.compile
    monkeypatch.setattr(torch, "compile", lambda module, **_: compile(module, backend=count))
    module = torch.nn.Sequential(
        *[torch.nn.Linear(2000, 2000) for _ in range(3)]
    )  # 16 MB each, buckets of 25
    ranks = SimpleNamespace(world_size=2)
    forward = eager(mode="on", ranks=ranks).wrap_for_training(module)
    output = forward(torch.ones(1, 2000))
    output.sum().backward()
    assert len(graphs) == 2
    torch.testing.assert_close(output, module(torch.ones(1, 2000)))
    assert all(parameter.grad is not None for parameter in module.parameters())
