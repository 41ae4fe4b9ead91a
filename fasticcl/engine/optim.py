"""SGD and the learning-rate schedules (section 4.3)."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from fasticcl.config import Optim

ParameterGroup = dict[str, Any]
"""A list ``params`` and settings of its parameters. ``lr_factor`` multiplies their learning rate."""


def build_optimizer(
    parameters: Iterable[torch.nn.Parameter],
    optim: Optim,
    weight_decay: float | None = None,
    exceptions: Sequence[ParameterGroup] = (),
) -> torch.optim.Optimizer:
    """Return an SGD optimizer. `set_lr` sets its learning rates at the start of every epoch.

    Args:
        parameters: all trained parameters.
        optim: the section ``optim``.
        weight_decay: replaces that of the section.
        exceptions: groups of some of the parameters, with their own ``weight_decay`` or ``lr_factor``.
    """
    parameters = list(parameters)
    excluded = {id(each) for group in exceptions for each in group["params"]}
    others: ParameterGroup = {"params": [each for each in parameters if id(each) not in excluded]}
    return torch.optim.SGD(
        [group for group in (others, *exceptions) if group["params"]],
        lr=optim.lr,
        momentum=optim.momentum,
        nesterov=optim.nesterov,
        weight_decay=optim.weight_decay if weight_decay is None else weight_decay,
        fused=parameters[0].is_cuda,
    )


def load_momenta(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore the momenta from a state dict, but not the settings, which `build_optimizer` has set.

    A checkpoint from a CPU would disable the fused implementation on a GPU.
    """
    optimizer.load_state_dict({**state, "param_groups": optimizer.state_dict()["param_groups"]})


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameter groups, multiplied by the ``lr_factor`` of a group."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def cosine_factor(epoch: int, epochs: int) -> float:
    """Return the cosine decay factor, which is 1 at epoch 0 and 0 at epoch ``epochs``."""
    return 0.5 * (1 + math.cos(math.pi * epoch / epochs))


def representation_lr(epoch: int, optim: Optim) -> float:
    """Return the learning rate of an epoch (counted from 0) of the representation stage.

    The rate is constant within an epoch, as in the code that the paper follows ([22] and [59]).
    """
    if optim.schedule == "cosine":
        factor = cosine_factor(epoch, optim.epochs)
    else:
        passed = sum(epoch >= optim.epoch_after(share) for share in optim.milestones)
        factor = optim.decay**passed
    if epoch < optim.warmup_epochs:
        progress = (epoch + 1) / optim.warmup_epochs
        factor *= optim.warmup_start + (1 - optim.warmup_start) * progress
    return optim.lr * factor
