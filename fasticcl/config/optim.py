"""The section ``optim``: optimizer and schedule of the representation stage."""

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from fasticcl.config.section import ConfigSection
from fasticcl.config.types import Count, Fraction, Positive, Recipe, Weight


class Optim(ConfigSection):
    """SGD and its schedule in the representation stage (section 4.3)."""

    recipe: Recipe = "preset"
    """Source of the schedule: the dataset preset, or the authors of the method. Set by --recipe."""
    epochs: Count = 90
    """Epochs of the representation stage. T (method.warmup_epochs) and the schedule are adapted to it."""
    batch_size: Count = 256
    """Global batch size: images per stream in each step, summed over all ranks."""
    lr: Positive = 0.1
    """Base learning rate."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    nesterov: bool = False
    """Use Nesterov momentum, which the paper does not mention."""
    weight_decay: Weight = 5e-4
    """L2 penalty on all parameters."""
    schedule: Literal["cosine", "step"] = "cosine"
    """cosine: decay to 0 over all epochs. step: multiply by decay at each milestone."""
    milestones: tuple[Fraction, ...] = (0.6, 0.8)
    """Fractions of the epochs at which the step schedule decays."""
    decay: Positive = 0.01
    """Factor of each decay of the step schedule."""
    warmup_epochs: int = Field(default=0, ge=0)
    """Epochs of linear learning-rate warm-up. This is unrelated to T (method.warmup_epochs)."""
    warmup_start: Fraction = 1 / 3
    """Fraction of lr at which the learning-rate warm-up starts."""

    @model_validator(mode="after")
    def _has_momentum(self) -> "Optim":
        if self.nesterov and not self.momentum:
            raise ValueError("optim.nesterov requires momentum. Set optim.momentum or disable optim.nesterov")
        return self

    def epoch_after(self, fraction: float) -> int:
        """Return the first epoch, counted from 0, at which this fraction of the epochs has passed."""
        # Rounding makes 0.55 · 100 equal 55, not 55.00000000000001.
        return math.ceil(round(fraction * self.epochs, 6))
