"""Device, precision, compilation and ranks of a run."""

import inspect
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel

from fasticcl.config import Engine
from fasticcl.errors import UserError
from fasticcl.plural import counted
from fasticcl.system.compile_cache import use_persistent_cache
from fasticcl.system.rank_environment import local_rank, world_size
from fasticcl.system.ranks import Ranks, join_process_group

# Ranks.average_buffers averages running statistics after the step. torch renamed this option after 2.11.
_IS_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_BUFFER_SYNC: dict[str, Any] = {"forward_sync_buffers" if _IS_RENAMED else "broadcast_buffers": False}
# The default of torch, which a user can set with TORCHDYNAMO_SUPPRESS_ERRORS.
_SUPPRESS_ERRORS = bool(os.environ.get("TORCHDYNAMO_SUPPRESS_ERRORS"))

Mode = Literal["off", "on", "step", "cuda-graphs", "captured"]
"""Compilation of a training step. The values are those of ``engine.compile``."""
MODES: dict[Mode, str] = {
    "off": "eager",
    "on": "compiled",
    "step": "compiled with losses and centroids",
    "cuda-graphs": "compiled with CUDA graphs",
    "captured": "captured as one CUDA graph",
}
"""Description of each mode."""


@dataclass(frozen=True)
class Machine:
    """Device of a run, and the precision and compilation of its forward passes."""

    device: torch.device
    bfloat16: bool
    """If True, forward passes run under bfloat16 autocast. Losses and centroids stay in float32."""
    mode: Mode
    """Compilation of a training step, a key of `MODES`."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together."""
    eager_if_uncompilable: bool = False
    """If True, a forward pass that torch cannot compile runs eagerly, with a warning of torch, instead of
    failing. An error in the compilation of its backward pass, which happens later, still ends the run."""

    @property
    def gpu(self) -> int | None:
        """Return the CUDA device index, or None on a CPU."""
        return self.device.index if self.device.type == "cuda" else None

    @property
    def compiled(self) -> bool:
        """Return True if torch compiles the forward passes in training."""
        return self.mode not in ("off", "captured")

    @property
    def captures_graphs(self) -> bool:
        """Return True if training captures CUDA graphs, during which no thread may wait for the device."""
        return self.mode in ("cuda-graphs", "captured")

    def synchronize(self) -> None:
        """Wait for all kernels queued on the device."""
        if self.gpu is not None:
            torch.cuda.synchronize(self.gpu)

    def begin_step(self) -> None:
        """Mark the beginning of a training step, after which CUDA graphs may overwrite earlier outputs.

        Without this mark, every call of a compiled module without a pending backward pass begins a step, and
        the features of a frozen encoder would be overwritten before the classifier has read them.
        """
        if self.mode == "cuda-graphs":
            torch.compiler.cudagraph_mark_step_begin()

    def autocast(self) -> torch.autocast:
        """Return the autocast context of a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def to_device(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device and its weights to channels_last, the memory format of the images."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def compile_forward(self, module: torch.nn.Module) -> Callable[..., Any]:
        """Return the module, compiled if the mode compiles forward passes."""
        if not self.compiled or self.mode == "step":
            return module
        # Inductor captures graphs in the mode "thread_local", which does not affect the threads of DALI.
        return self.compile(module, mode="reduce-overhead" if self.mode == "cuda-graphs" else "default")

    def compile_losses(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function that computes the losses of a stage, compiled in the mode ``step``.

        CUDA graphs cannot be used here, because they would overwrite the centroids that the next step needs.
        """
        return self.compile(compute) if self.mode == "step" else compute

    def compile(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Return a function or module compiled by torch, whose code for a GPU is kept for later runs."""
        # Only code for a GPU, because inductor compiles code for a CPU with -march=native, and machines with
        # other CPUs may share the home folder.
        if self.gpu is not None:
            use_persistent_cache()
        torch._dynamo.config.suppress_errors = self.eager_if_uncompilable or _SUPPRESS_ERRORS
        return torch.compile(function, **options)

    def wrap_for_training(
        self, module: torch.nn.Module, find_unused_parameters: bool = False
    ) -> Callable[..., Any]:
        """Return a trainable module, compiled and, with several ranks, wrapped in DistributedDataParallel.

        Args:
            module: the module.
            find_unused_parameters: True if some parameters may get no gradient in a step.
        """
        # A compiled module is compiled during the forward pass of DistributedDataParallel, where torch splits
        # its graph at the gradient buckets, so gradients are exchanged during the backward pass.
        forward = self.compile_forward(module)
        if self.ranks.world_size == 1:
            return forward
        return DistributedDataParallel(
            forward,
            device_ids=None if self.gpu is None else [self.gpu],
            gradient_as_bucket_view=True,
            find_unused_parameters=find_unused_parameters,
            **_NO_BUFFER_SYNC,
        )

    def describe(self) -> str:
        """Return device, precision, mode and torch version in one line."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.gpu is not None
            else f"CPU, {counted(torch.get_num_threads(), 'thread')}"
        )
        precision = "bfloat16" if self.bfloat16 else "float32"
        ranks = f"{self.ranks.world_size} ranks of " if self.ranks.world_size > 1 else ""
        mode = (
            "eager, images prepared by torch"
            if self.gpu is None and self.mode == "captured"
            else MODES[self.mode]
        )
        return f"{ranks}{name}, {precision}, {mode}, torch {torch.__version__}"


def _choose_mode(requested: Literal["auto"] | Mode, use_gpu: bool) -> Mode:
    if requested == "auto":
        return "on" if use_gpu else "off"
    return requested if use_gpu or requested != "cuda-graphs" else "on"


def choose_machine(engine: Engine, alone: bool = False) -> Machine:
    """Return the machine for a configuration.

    The mode ``auto`` means compiled on a GPU, unless `fasticcl.engine.compile_trial.choose_mode` chooses
    another mode for a training run, and eager on a CPU. On a CPU, ``cuda-graphs`` means ``on``, and
    ``captured`` means eager steps on images that torch prepares.

    Args:
        engine: device, precision and mode.
        alone: if True, this process does not join the other ranks.

    Raises:
        UserError: a requested GPU does not exist, there are more ranks than GPUs, or the mode supports only
            one rank.
    """
    has_gpu = torch.cuda.is_available()
    if engine.device == "gpu" and not has_gpu:
        raise UserError(
            "--device gpu: torch detects no GPU. Check the driver with nvidia-smi or use --device cpu."
        )
    use_gpu = has_gpu and engine.device != "cpu"
    if use_gpu and local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"There are more ranks on this machine than GPUs ({torch.cuda.device_count()}). "
            "Start one rank for each GPU."
        )
    if use_gpu:
        torch.cuda.set_device(local_rank())
    if engine.compile in ("step", "captured") and not alone and world_size() > 1:
        raise UserError(
            f"engine.compile={engine.compile} supports only one rank. Use --set engine.compile=auto."
        )
    return Machine(
        device=torch.device("cuda", local_rank()) if use_gpu else torch.device("cpu"),
        ranks=Ranks() if alone else join_process_group(local_rank() if use_gpu else None),
        bfloat16=engine.precision == "bfloat16" or (engine.precision == "auto" and use_gpu),
        mode=_choose_mode(engine.compile, use_gpu),
    )
