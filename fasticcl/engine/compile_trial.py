"""The choice of the compile mode of a run: by its length, or in a short trial of all modes.

The trial builds a separate stage for each mode and takes a few steps on one synthetic batch. It does not
change the weights, batch statistics, optimizer or random numbers of the run. The run compiles the chosen mode
again, but from the caches of torch on disk, so it only traces the code.
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
from fasticcl.engine.captured_step import CapturedStep
from fasticcl.engine.optim import set_lr
from fasticcl.engine.run.checkpoint import Checkpoint
from fasticcl.engine.stages.first_stage import build_first_stage
from fasticcl.engine.stages.stage import learn
from fasticcl.errors import UserError
from fasticcl.system.machine import MODES, Machine, Mode
from fasticcl.system.ranks import Ranks

Step = Callable[[], torch.Tensor]
"""Takes a training step and returns its loss."""

# These are estimates from reading the code. None of them has been measured on a GPU.
_MIN_STEP_SECONDS = 6e-3  # a small network is limited by kernel launches (ResNet-32: 5 to 7 ms)
_SECONDS_PER_PIXEL = 1e-8  # of one stream: ResNet-50 takes about 0.13 s for two streams of 256 × 224² pixels
# If nothing is cached, compilation takes 15 s (ResNet-32) to 60 s (ResNet-50). It saves a third (ResNet-32)
# to an eighth (ResNet-50) of a step. A run of this length repays it for small networks or with a warm cache.
_COMPILATION_PAYS_AFTER = 90.0  # seconds of training
# A trial compiles a second mode, which takes another one to three minutes. The best mode may save a tenth.
_TRIAL_PAYS_AFTER = 1200.0  # seconds of training

# CUDA graphs are opt-in until they have been tested with DALI on a GPU.
DEFAULT_MODES: tuple[Mode, ...] = ("off", "on", "step")
_WARMUP = 4  # steps, of which the first compiles and the second records CUDA graphs
_ROUNDS, _STEPS = 5, 4
_LR = 1e-6  # small enough that the loss does not diverge on random labels
_TOLERANCE = 0.05  # relative difference of the losses of two modes, which round bfloat16 differently


@dataclass(frozen=True)
class ModeTrial:
    """The result of a trial."""

    milliseconds: Mapping[Mode, float] = field(default_factory=dict)
    """Median milliseconds per step of the modes that work."""
    failures: Mapping[Mode, str] = field(default_factory=dict)
    """Error message of each mode that failed."""

    @property
    def fastest(self) -> Mode:
        """The fastest mode, or eager if none works, in which case training itself reports the error."""
        return min(self.milliseconds, key=self.milliseconds.__getitem__, default="off")

    def describe(self) -> str:
        """Return a line with the fastest mode and the results of the others."""
        slower = {mode: time for mode, time in self.milliseconds.items() if mode != self.fastest}
        others = [f"{MODES[mode]} {time:.1f}" for mode, time in slower.items()]
        others += [f"{MODES[mode]} failed: {reason}" for mode, reason in self.failures.items()]
        time = f": {self.milliseconds[self.fastest]:.1f} ms per step" if self.milliseconds else ""
        return f"{MODES[self.fastest]}{time}" + (f" ({'; '.join(others)})" if others else "")


@dataclass(frozen=True)
class RemainingSteps:
    """Steps of each stage that a run has not taken yet."""

    representation: int
    """With those of the seed stage, which has the same batches."""
    rebalancing: int

    @property
    def total(self) -> int:
        """The steps of all stages."""
        return self.representation + self.rebalancing

    @classmethod
    def of(cls, config: Config, steps: int, checkpoint: Checkpoint | None = None) -> "RemainingSteps":
        """Count the steps of a new run, or those after a checkpoint.

        Args:
            config: the effective configuration.
            steps: steps per epoch.
            checkpoint: the checkpoint from which the run continues, or None for a new run.
        """
        first_epochs = config.seed_epochs + config.optim.epochs
        all_steps = cls(first_epochs * steps, config.rebalance.trained_epochs * steps)
        if checkpoint is None:
            return all_steps
        done = checkpoint.epoch * steps + checkpoint.step
        if checkpoint.stage == "representation":
            done += config.seed_epochs * steps
        if checkpoint.stage != "rebalancing":
            return cls(all_steps.representation - done, all_steps.rebalancing)
        return cls(0, all_steps.rebalancing - done)


@dataclass(frozen=True)
class ModeChoice:
    """The mode of a run."""

    mode: Mode
    description: str = ""
    """The mode and the reason for it, or empty if it was not chosen automatically."""
    tried: bool = False
    """True if the mode has worked in a trial."""

    def apply(self, machine: Machine) -> Machine:
        """Return the machine with this mode. See `Machine.eager_if_uncompilable`."""
        untried = bool(self.description) and not self.tried
        return replace(machine, mode=self.mode, eager_if_uncompilable=untried)


def is_automatic(config: Config, machine: Machine) -> bool:
    """Return True if `choose_mode` chooses the mode: ``engine.compile`` is ``auto`` and the device is a GPU.

    On a CPU, compiling takes minutes and gains little.
    """
    return config.engine.compile == "auto" and machine.gpu is not None


def step_seconds(config: Config, ranks: int) -> float:
    """Return a rough estimate of the time of an eager training step on a GPU."""
    pixels = config.optim.batch_size // ranks * config.data.image_size**2
    return max(_MIN_STEP_SECONDS, pixels * _SECONDS_PER_PIXEL)


def choose_mode(
    config: Config, num_classes: int, machine: Machine, steps: RemainingSteps | None
) -> ModeChoice:
    """Return the mode of a run, which rank 0 chooses for all ranks.

    Args:
        config: the configuration of the run.
        num_classes: K.
        machine: the machine, with the mode that ``engine.compile`` names.
        steps: the remaining steps of the run, or None for a run that is long enough for a trial.
    """
    fixed = _fixed_mode(config, machine, steps)
    return fixed or machine.ranks.run_on_main(
        lambda: choose_untried(config, machine, steps) or _choose_by_trial(config, num_classes, machine)
    )


def _fixed_mode(config: Config, machine: Machine, steps: RemainingSteps | None) -> ModeChoice | None:
    if steps is not None and steps.total == 0:  # a readout, or only the final files
        return ModeChoice("off")
    return None if is_automatic(config, machine) else ModeChoice(machine.mode)


def _choose_by_trial(config: Config, num_classes: int, machine: Machine) -> ModeChoice:
    trial = try_modes(config, num_classes, machine)
    return ModeChoice(trial.fastest, trial.describe(), tried=True)


def choose_untried(config: Config, machine: Machine, steps: RemainingSteps | None) -> ModeChoice | None:
    """Return the mode of a run that is chosen without a trial, or None if `choose_mode` tries the modes.

    The arguments are those of `choose_mode`.
    """
    if fixed := _fixed_mode(config, machine, steps):
        return fixed
    if config.engine.fast_dev_run:
        return _untried("off", "no trial with --fast-dev-run")
    if steps is None:
        return None
    ranks, size = machine.ranks.world_size, config.data.image_size
    seconds = step_seconds(config, ranks)
    images = f"with {config.optim.batch_size // ranks} images of {size}×{size} pixels"
    if steps.total * seconds < _COMPILATION_PAYS_AFTER:
        return _untried("off", f"the remaining {steps.total:,} steps {images} would not repay compilation")
    if steps.representation == 0:
        return _untried("on", "no trial, because the representation stage that it measures is finished")
    if steps.representation * seconds < _TRIAL_PAYS_AFTER:
        text = f"the remaining {steps.representation:,} steps of the representation stage {images}"
        return _untried("on", f"no trial, because {text} would not repay one")
    return None


def _untried(mode: Mode, reason: str) -> ModeChoice:
    return ModeChoice(mode, f"{MODES[mode]} (engine.compile=auto: {reason})")


def modes_for(ranks: Ranks) -> tuple[Mode, ...]:
    """Return the modes to try. ``step`` cannot average gradients over several ranks."""
    return DEFAULT_MODES if ranks.world_size == 1 else tuple(mode for mode in DEFAULT_MODES if mode != "step")


def try_modes(
    config: Config, num_classes: int, machine: Machine, modes: tuple[Mode, ...] | None = None
) -> ModeTrial:
    """Train a few steps in each mode, in the last phase before the cooldown, on this rank only.

    Args:
        config: the configuration of the run.
        num_classes: K.
        machine: the machine, whose mode is ignored.
        modes: the modes to try, or None for those of `modes_for`. The loss of the first is the reference.
    """
    # Synchronised batch statistics would wait for the other ranks, which take no steps.
    alone = config.model_copy(update={"engine": config.engine.model_copy(update={"sync_bn": False})})
    phase = config.phase(config.optim.epochs - 1 - config.method.cooldown_epochs)
    size, side = config.optim.batch_size // machine.ranks.world_size, config.data.image_size
    mixed = config.data.mixing != "none"

    def start(mode: Mode) -> Step:
        torch.manual_seed(0)  # the same weights for all modes
        stage = build_first_stage(alone, num_classes, replace(machine, mode=mode, ranks=Ranks()))
        stage.begin_epoch(0)
        set_lr(stage.optimizer, _LR)
        batch = synthetic_batch(phase, size, side, num_classes, machine.device, mixed)
        step = CapturedStep(type(batch), machine.device, _fail) if mode == "captured" else learn
        return lambda: step(stage, batch)["loss"].detach()

    with torch.random.fork_rng(devices=[] if machine.gpu is None else [machine.gpu]):
        return time_modes(modes or modes_for(machine.ranks), start, machine)


def _fail(message: str) -> None:
    raise RuntimeError(message)


def _release(machine: Machine) -> None:
    """Release the compiled code and the memory of a mode."""
    torch.compiler.reset()
    gc.collect()  # compiled modules contain reference cycles
    if machine.gpu is not None:
        torch.cuda.empty_cache()


def time_modes(
    modes: tuple[Mode, ...],
    start: Callable[[Mode], Step],
    machine: Machine,
    clock: Callable[[], float] = time.perf_counter,
) -> ModeTrial:
    """Measure the time of a step in each mode. A mode that fails or computes a different loss is excluded.

    Args:
        modes: the modes to try. The loss of the first that works is the reference.
        start: returns a function that takes a step in a mode.
        machine: the machine.
        clock: returns the time in seconds.

    Raises:
        UserError: invalid input, which would fail in every mode.
    """
    milliseconds: dict[Mode, float] = {}
    failures: dict[Mode, str] = {}
    expected = None
    for mode in modes:
        try:
            time_per_step, loss = _time(start(mode), machine.synchronize, clock)
        except UserError:
            raise
        except Exception as error:  # compilers and drivers raise many types, and other modes may still work
            failures[mode] = f"{type(error).__name__}: {error}".splitlines()[0]
            continue
        finally:
            _release(machine)
        if not math.isfinite(loss):
            failures[mode] = f"loss is {loss}"
            continue
        expected = loss if expected is None else expected
        if math.isclose(loss, expected, rel_tol=_TOLERANCE):
            milliseconds[mode] = time_per_step
        else:
            failures[mode] = f"loss is {loss:.3f}, not {expected:.3f}"
    return ModeTrial(milliseconds, failures)


def _time(step: Step, synchronize: Callable[[], None], clock: Callable[[], float]) -> tuple[float, float]:
    """Return the median milliseconds per step over several rounds, and the loss of another step."""
    for _ in range(_WARMUP):
        step()
    rounds = []
    for _ in range(_ROUNDS):
        synchronize()
        began = clock()
        for _ in range(_STEPS):
            step()
        synchronize()
        rounds.append(1000 * (clock() - began) / _STEPS)
    return statistics.median(rounds), float(step())
