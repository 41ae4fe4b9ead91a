"""Training steps in several processes at the same time."""

import pytest

from fasticcl.bench.run_work import StepKind
from fasticcl.bench.side_by_side import side_by_side_seconds
from fasticcl.resolve import configure


def kind(shards, encoder):
    settings = {"method.encoder": encoder, "data.image_size": 8, "data.crop_padding": 1}
    options = {"data": shards, "batch_size": 20, "device": "cpu", "workers": 1}
    return StepKind.of(configure("demo", set=settings, **options), "warmup", "off")


@pytest.mark.parametrize(("encoder", "is_measured"), [("resnet8", True), ("resnet9", False)])
def test_steps_are_measured_in_processes(encoder, is_measured, tiny_shards, tmp_path):
    environments = [{"OMP_NUM_THREADS": "1"}] * (2 if is_measured else 1)
    steps = kind(tiny_shards, encoder)
    seconds = side_by_side_seconds(steps, tmp_path / "scratch", environments, 1, seconds=0.01)
    assert (seconds is not None and seconds > 0) == is_measured
