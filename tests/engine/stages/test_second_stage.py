"""The choice of the second stage."""

import numpy as np
import pytest

from fasticcl.engine.stages.memory import MemoryRebalancing
from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine


@pytest.mark.parametrize(
    ("method", "kind"), [("iccl", Rebalancing), ("oltr", MemoryRebalancing), ("ncm", ReadoutStage)]
)
def test_only_rebalancing_takes_training_steps(method, kind):
    config = resolve("demo", method=method, assignments=["engine.device=cpu"])
    stage = build_second_stage(
        config, Network("resnet8", 4, 8), choose_machine(config.engine), np.array([4, 3, 2, 1])
    )
    assert type(stage) is kind
    assert isinstance(stage, TrainingStage) == (kind is not ReadoutStage)
    assert stage.network.projection is None
