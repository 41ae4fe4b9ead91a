"""The first stage by the setting ``method.first_stage``."""

import pytest

from fasticcl.engine.compile_trial import DEFAULT_MODES
from fasticcl.engine.stages.bilateral import Bilateral
from fasticcl.engine.stages.first_stage import build_first_stage, random_setting
from fasticcl.engine.stages.m2m import MajorToMinor
from fasticcl.engine.stages.representation import Representation
from fasticcl.errors import UserError
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine


@pytest.mark.parametrize(
    ("method", "expected"),
    [("iccl", Representation), ("ce", Representation), ("bbn", Bilateral), ("m2m", MajorToMinor)],
)
def test_method_has_its_first_stage(method, expected):
    config = resolve("demo", method=method, assignments=["engine.device=cpu"])
    stage = build_first_stage(config, 3, choose_machine(config.engine))
    assert type(stage) is expected
    assert stage.name == "representation"


def test_a_stage_whose_steps_draw_random_numbers_cannot_be_captured():
    """A CUDA graph would repeat the numbers of the captured step."""
    setting = ["engine.device=cpu", "engine.compile=captured"]
    config = resolve("demo", method="manifold-mixup", assignments=setting)
    with pytest.raises(UserError) as error:
        build_first_stage(config, 3, choose_machine(config.engine))
    assert str(error.value) == (
        "engine.compile=captured cannot be used: with method.mixup_after, each step makes random choices, "
        "and a CUDA graph would repeat the same ones. Use --set engine.compile=auto."
    )
    assert random_setting(resolve("demo").method) is None
    assert "captured" not in DEFAULT_MODES
