"""The first stage by the setting ``method.first_stage``."""

import pytest

from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.m2m import MajorToMinor
from fasticcl.engine.stages.representation import Representation
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine


@pytest.mark.parametrize(
    ("method", "expected"), [("iccl", Representation), ("ce", Representation), ("m2m", MajorToMinor)]
)
def test_method_has_its_first_stage(method, expected):
    config = resolve("demo", method=method, assignments=["engine.device=cpu"])
    stage = build_first_stage(config, 3, choose_machine(config.engine))
    assert type(stage) is expected
    assert stage.name == "representation"
