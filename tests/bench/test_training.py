"""Training throughput in every phase, and the time of each part of a step."""

import pytest
import torch

import fasticcl
from fasticcl.bench.training import PARTS, parts_mode
from fasticcl.method.network import Network
from fasticcl.system.machine import MODES


def test_every_part_of_a_step_takes_time(full_result):
    assert list(full_result.parts) == list(PARTS)
    for name, measurement in full_result.parts.items():
        assert measurement.unit == "ms/step"
        assert len(measurement.runs) >= 3
        assert measurement.min >= 0
        assert measurement.max > 0, name


@pytest.mark.parametrize(
    ("dataset", "phase"),
    [("demo", "warmup"), ("demo", "rebalance"), ("cifar10-lt", "interpolative"), ("cifar10-lt", "rebalance")],
)
def test_training_is_measured_in_every_phase_of_a_preset(dataset, phase, tiny):
    result = fasticcl.benchmark("train", dataset, phase=phase, **tiny)
    assert set(result.measured) == {f"{part} {phase}" for part in ("loader", "step", "train")}
    assert result.settings["dataset"] == dataset
    assert result.settings["classes"] == 10
    assert result.parts["forward"].min > 0


@pytest.mark.parametrize("mode", MODES)
def test_parts_are_measured_in_a_mode_that_has_them(mode):
    assert parts_mode(mode) == {"step": "on", "captured": "off"}.get(mode, mode)


def test_parts_of_a_compiled_step_are_measured_with_a_compiled_network_only(monkeypatch, tiny):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda part, **_: compiled.append(part) or part)
    result = fasticcl.benchmark("train", set={"engine.compile": "step"}, **tiny)
    assert [isinstance(part, Network) for part in compiled] == [False, False, True]  # step, then its parts
    assert result.settings["mode"] == MODES["step"]
    assert set(result.parts) == set(PARTS)
    assert any("measured in the mode on (compiled)" in note for note in result.notes)
