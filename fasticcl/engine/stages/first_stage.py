"""The first stage of a run, by the setting ``method.first_stage``."""

import numpy as np
from numpy.typing import NDArray

from fasticcl.config import Config, Method
from fasticcl.engine.stages.bilateral import Bilateral
from fasticcl.engine.stages.m2m import MajorToMinor
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import TrainingStage
from fasticcl.errors import UserError
from fasticcl.system.machine import Machine


def random_setting(method: Method) -> str | None:
    """Return the setting with which training steps draw random numbers on the host, or None."""
    if method.mixup_after:
        return "method.mixup_after"
    return "method.first_stage=m2m" if method.first_stage == "m2m" else None


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
        UserError: the encoder, the classifier, the loss or a block of the encoder is unknown, or the stage
            cannot be captured.
    """
    if machine.mode == "captured" and (setting := random_setting(config.method)):
        raise UserError(
            f"engine.compile=captured cannot be used: with {setting}, each step makes random choices, and a "
            "CUDA graph would repeat the same ones. Use --set engine.compile=auto."
        )
    stages = {"iccl": Representation, "bbn": Bilateral, "m2m": MajorToMinor}
    return stages[config.method.first_stage](config, num_classes, machine, counts)
