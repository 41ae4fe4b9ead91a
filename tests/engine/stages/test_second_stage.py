"""The choice of the second stage."""

import numpy as np
import pytest

from fasticcl.engine.stages.readout import ReadoutStage
from fasticcl.engine.stages.rebalance import Rebalancing
from fasticcl.engine.stages.second_stage import build_second_stage
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.method.network import Network
from fasticcl.resolve import resolve
from fasticcl.system.machine import choose_machine


@pytest.mark.parametrize(("readout", "kind"), [("none", Rebalancing), ("log_prior", ReadoutStage)])
def test_only_rebalancing_takes_training_steps(readout, kind):
    config = resolve("demo", options={"rebalance": {"readout": readout}, "engine": {"device": "cpu"}})
    stage = build_second_stage(
        config, Network("resnet8", 4, 8), choose_machine(config.engine), np.array([4, 3, 2, 1])
    )
    assert isinstance(stage, kind)
    assert isinstance(stage, TrainingStage) == (kind is Rebalancing)
    assert stage.network.projection is None
