"""Training throughput in every phase, and the time of each part of a step."""

import pytest

import fasticcl
from fasticcl.bench.training import PARTS
from fasticcl.data.plan import PHASES


def test_every_part_of_a_step_takes_time(full_result):
    assert list(full_result.parts) == list(PARTS)
    for name, measurement in full_result.parts.items():
        assert measurement.unit == "ms/step"
        assert len(measurement.runs) >= 3
        assert measurement.min >= 0
        assert measurement.max > 0, name


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("dataset", ["demo", "cifar10-lt"])
def test_training_is_measured_in_every_phase_of_a_preset(dataset, phase, tiny):
    result = fasticcl.benchmark("train", dataset, phase=phase, **tiny)
    assert set(result.measured) == {f"{part} {phase}" for part in ("loader", "step", "train")}
    assert result.settings["dataset"] == dataset
    assert result.settings["classes"] == 10
    assert result.parts["forward"].min > 0
