"""The first stage of a run, by the setting ``method.first_stage``."""

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config
from fasticcl.engine.stages.m2m import MajorToMinor
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.system.machine import Machine


def build_first_stage(
    config: Config, num_classes: int, machine: Machine, counts: NDArray[np.integer] | None = None
) -> TrainingStage:
    """Return the first stage of a run with new weights.

    Args:
        config: configuration of the run.
        num_classes: K.
        machine: device and ranks.
        counts: [K] training images per class. None means equal counts.

    Raises:
        UserError: the encoder, the classifier, the loss or a block of the encoder is unknown.
    """
    if config.method.first_stage == "m2m":
        return MajorToMinor(config, num_classes, machine, counts)
    return Representation(config, num_classes, machine, counts)
