"""Division of a machine among runs that are trained at the same time."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fasticcl.reproduce.plan import Plan
from fasticcl.system.machine import choose_machine
from fasticcl.system.resources import decoding_threads, usable_cores

GPUS = "CUDA_VISIBLE_DEVICES"
_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True)
class Slot:
    """The share of the machine that one run gets."""

    environment: Mapping[str, str] = field(default_factory=dict)
    """Environment variables of its process, in addition to those of this one."""
    workers: int | None = None
    """Threads that decode images. None: the default of the run."""


def divide(
    count: int, gpus: Sequence[str], cores: int, environment: Mapping[str, str] = os.environ
) -> list[Slot]:
    """Return the slots of a machine.

    Args:
        count: number of slots.
        gpus: GPUs as ``CUDA_VISIBLE_DEVICES`` names them. The slots use them in turn, so several slots share
            one if there are fewer GPUs than slots. Empty: the runs are trained on the CPU.
        cores: cores that are divided among the slots.
        environment: environment variables of this process. Its number of OpenMP threads is kept.
    """
    is_set = _THREADS in environment
    share = max(1, cores // count)
    slots = []
    for number in range(count):
        threads = {_THREADS: str(share)} if count > 1 and not is_set else {}
        gpu = {GPUS: gpus[number % len(gpus)]} if gpus else {}
        workers = decoding_threads(bool(gpus), share) if count > 1 else None
        slots.append(Slot({**threads, **gpu}, workers))
    return slots


def machine_slots(plan: Plan, count: int | None) -> list[Slot]:
    """Return the slots of this machine for a plan.

    Args:
        plan: the runs.
        count: number of slots. None: one for each GPU, or one on a CPU.

    Raises:
        UserError: a run requests a GPU and there is none.
    """
    on_cpu = all(job.config.engine.device == "cpu" for job in plan.jobs)
    gpus = [] if on_cpu else visible_gpus()
    if not gpus:
        for job in plan.jobs:
            choose_machine(job.config.engine, alone=True)  # on a GPU, it would occupy memory of the runs
    return divide(count or len(gpus) or 1, gpus, usable_cores())


def visible_gpus(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the GPUs that this process can use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    return name_gpus(torch.cuda.device_count() if torch.cuda.is_available() else 0, environment.get(GPUS))


def name_gpus(count: int, visible: str | None) -> list[str]:
    """Return the names of GPUs.

    Args:
        count: number of GPUs that CUDA reports.
        visible: value of ``CUDA_VISIBLE_DEVICES``, a list of indices or UUIDs, or None if it is not set.
    """
    names = [name.strip() for name in visible.split(",")] if visible else map(str, range(count))
    return [*names][:count]
