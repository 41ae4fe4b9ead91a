"""Which way of computing a training step is the fastest here: a short trial before training.

The trial builds stages of its own, one per mode, and takes a few steps with each on one synthetic batch, so
weights, batch statistics, optimizer and random numbers of the run are what they would be without it.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from fasticcl.config import Config
from fasticcl.data.batch import synthetic_batch
from fasticcl.engine.optim import set_lr
from fasticcl.engine.stages.representation import Representation
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.system.machine import MODES, Machine, Mode
from fasticcl.system.ranks import Ranks

Step = Callable[[], torch.Tensor]
"""Takes a training step and returns its loss."""

# CUDA graphs are left to those who ask for them until they were seen to run on a GPU beside DALI.
TRIED: tuple[Mode, ...] = ("off", "on", "step")
_WARMUP = 4  # steps; the first compiles, CUDA graphs are recorded in the second
_ROUNDS, _STEPS = 5, 4
_STILL = 1e-6  # learning rate: random classes teach nothing, and no loss runs away
_ALIKE = 0.05  # share by which the losses of two modes may differ; bfloat16 rounds differently in each


@dataclass(frozen=True)
class ModeTrial:
    """What came of the modes that were tried."""

    milliseconds: Mapping[Mode, float] = field(default_factory=dict)
    """The median of a step, of those that worked."""
    failures: Mapping[Mode, str] = field(default_factory=dict)
    """Why the others did not."""

    @property
    def fastest(self) -> Mode:
        """The mode to train in; eager where none worked, so that training itself says what is wrong."""
        return min(self.milliseconds, key=self.milliseconds.__getitem__, default="off")

    def describe(self) -> str:
        """Return the choice, and what it was chosen from, in a line."""
        times = {mode: each for mode, each in self.milliseconds.items() if mode != self.fastest}
        others = [f"{MODES[mode]} {each:.1f}" for mode, each in times.items()]
        others += [f"{MODES[mode]} failed: {reason}" for mode, reason in self.failures.items()]
        taken = f": {self.milliseconds[self.fastest]:.1f} ms a step" if self.milliseconds else ""
        return f"{MODES[self.fastest]}{taken}" + (f" ({'; '.join(others)})" if others else "")


def wants_trial(config: Config, machine: Machine) -> bool:
    """Return whether the mode is to be found out: where it is ``auto``, on a GPU.

    A CPU takes minutes to compile what it then computes hardly faster.
    """
    return config.engine.compile == "auto" and machine.gpu is not None


def modes_for(ranks: Ranks) -> tuple[Mode, ...]:
    """Return the modes that are tried: several ranks average the gradients of what is compiled alone."""
    return TRIED if ranks.world_size == 1 else tuple(mode for mode in TRIED if mode != "step")


def try_modes(
    config: Config, num_classes: int, machine: Machine, modes: tuple[Mode, ...] | None = None
) -> ModeTrial:
    """Train a few steps of the phase that a run ends its first stage with, in each mode, on this rank alone.

    Args:
        config: the configuration of the run.
        num_classes: K.
        machine: where it runs; its own mode does not matter.
        modes: those to try, eager first: what the others compute is compared with it. None: `modes_for`.
    """
    # Where batch statistics are synchronised each step would wait for the other ranks.
    alone = config.model_copy(update={"engine": config.engine.model_copy(update={"sync_bn": False})})
    phase = config.phase(config.optim.epochs - 1)
    size = config.optim.batch_size // machine.ranks.world_size

    def start(mode: Mode) -> Step:
        torch.manual_seed(0)  # the same weights for each
        stage = Representation(alone, num_classes, replace(machine, mode=mode, ranks=Ranks()))
        stage.train_mode()
        set_lr(stage.optimizer, _STILL)
        batch = synthetic_batch(phase, size, config.data.image_size, num_classes, machine.device)
        return lambda: learn(stage, batch)["loss"].detach()

    with torch.random.fork_rng(devices=[] if machine.gpu is None else [machine.gpu]):
        return time_modes(modes or modes_for(machine.ranks), start, machine)


def _forget(machine: Machine) -> None:
    """Drop what a mode compiled and the memory that it held; the next begins, and training does, without."""
    torch.compiler.reset()
    gc.collect()  # compiled modules refer to themselves
    if machine.gpu is not None:
        torch.cuda.empty_cache()


def time_modes(
    modes: tuple[Mode, ...],
    start: Callable[[Mode], Step],
    machine: Machine,
    clock: Callable[[], float] = time.perf_counter,
) -> ModeTrial:
    """Return the time of a step in each mode; one that fails or computes another loss is left out.

    Args:
        modes: those to try; the loss of the first that works is what the others are held to.
        start: returns what takes a step in a mode.
        machine: where it runs.
        clock: seconds.

    Raises:
        UserError: bad input, which fails in every mode.
    """
    milliseconds: dict[Mode, float] = {}
    failures: dict[Mode, str] = {}
    expected = None
    for mode in modes:
        try:
            taken, loss = _time(start(mode), machine.synchronize, clock)
        except UserError:
            raise
        except Exception as error:  # compilers, drivers and memory fail in many ways; other modes may work
            failures[mode] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        finally:
            _forget(machine)
        if not math.isfinite(loss):
            failures[mode] = f"its loss is {loss}"
            continue
        expected = loss if expected is None else expected
        if math.isclose(loss, expected, rel_tol=_ALIKE):
            milliseconds[mode] = taken
        else:
            failures[mode] = f"its loss is {loss:.3f}, not {expected:.3f}"
    return ModeTrial(milliseconds, failures)


def _time(step: Step, settle: Callable[[], None], clock: Callable[[], float]) -> tuple[float, float]:
    """Return the milliseconds of a step, the median over some rounds, and the loss of one more."""
    for _ in range(_WARMUP):
        step()
    rounds = []
    for _ in range(_ROUNDS):
        settle()
        began = clock()
        for _ in range(_STEPS):
            step()
        settle()
        rounds.append(1000 * (clock() - began) / _STEPS)
    return statistics.median(rounds), float(step())
