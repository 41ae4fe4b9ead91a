"""The machine a run is on: device, precision, compilation."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.nn.parallel import DistributedDataParallel

from fasticcl.config import Engine
from fasticcl.errors import UserError
from fasticcl.system.rank_environment import local_rank, world_size
from fasticcl.system.ranks import Ranks, join_process_group

# Running statistics are averaged after the step. The name of the option changed after torch 2.11.
_RENAMED = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _RENAMED else "broadcast_buffers": False}


Mode = Literal["off", "on", "step", "cuda-graphs"]
"""How training is computed, as ``engine.compile`` has it."""
MODES: dict[Mode, str] = {
    "off": "eager",
    "on": "compiled",
    "step": "compiled with losses and centroids",
    "cuda-graphs": "compiled with CUDA graphs",
}


@dataclass(frozen=True)
class Machine:
    """Where tensors live and how forward passes are computed."""

    device: torch.device
    bfloat16: bool
    """Whether forward passes run under bfloat16 autocast; losses and centroids stay in float32."""
    mode: Mode
    """What of a training step goes through torch.compile, and whether CUDA graphs replay it."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that train together."""

    @property
    def gpu(self) -> int | None:
        """Device number for DALI; None on the CPU."""
        return self.device.index if self.device.type == "cuda" else None

    @property
    def compiled(self) -> bool:
        """Whether forward passes in training go through torch.compile."""
        return self.mode != "off"

    def synchronize(self) -> None:
        """Wait until everything that was started on the device is done."""
        if self.gpu is not None:
            torch.cuda.synchronize(self.gpu)

    def begin_step(self) -> None:
        """Say that a training step begins: what CUDA graphs put out in the last may be overwritten.

        Without it every call of a compiled module that has no backward pass to come begins one, and the
        features of a frozen encoder would be gone before the classifier has seen them.
        """
        if self.mode == "cuda-graphs":
            torch.compiler.cudagraph_mark_step_begin()

    def autocast(self) -> torch.autocast:
        """Return the context for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def to_device(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, its weights in the memory format of the images."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def compile_forward(self, module: torch.nn.Module) -> Callable[..., Any]:
        """Return what computes a module's forward pass: the module, or what it is compiled to."""
        if self.mode in ("off", "step"):
            return module
        # Inductor captures in the mode "thread_local", which leaves DALI's threads alone.
        return torch.compile(module, mode="reduce-overhead" if self.mode == "cuda-graphs" else "default")

    def compile_losses(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Return what computes the losses of a stage: the function, or what the whole of it is compiled to.

        Not with CUDA graphs: what the next step needs of this one, the centroids, they would overwrite.
        """
        return torch.compile(compute) if self.mode == "step" else compute

    def wrap_for_training(
        self, module: torch.nn.Module, find_unused_parameters: bool = False
    ) -> Callable[..., Any]:
        """Return what computes the forward pass of a module that learns, with the gradients of all ranks.

        Args:
            module: the module.
            find_unused_parameters: whether some of its parameters may get no gradient in a step.
        """
        forward = self.compile_forward(module)
        if self.ranks.world_size == 1:
            return forward
        return DistributedDataParallel(
            forward,
            device_ids=None if self.gpu is None else [self.gpu],
            gradient_as_bucket_view=True,
            find_unused_parameters=find_unused_parameters,
            **_NO_BUFFERS,
        )

    def describe(self) -> str:
        """Return device, precision and versions in a few words."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.gpu is not None
            else f"CPU, {torch.get_num_threads()} threads"
        )
        precision = "bfloat16" if self.bfloat16 else "float32"
        ranks = f"{self.ranks.world_size} ranks of " if self.ranks.world_size > 1 else ""
        return f"{ranks}{name}, {precision}, {MODES[self.mode]}, torch {torch.__version__}"


def _mode(asked: Literal["auto"] | Mode, use_gpu: bool) -> Mode:
    if asked == "auto":
        return "on" if use_gpu else "off"
    return asked if use_gpu or asked != "cuda-graphs" else "on"


def choose_machine(engine: Engine, alone: bool = False) -> Machine:
    """Return the machine that the configuration asks for.

    Where the mode is ``auto``, it is compiled on a GPU until a trial (`fasticcl.engine.compile_trial`)
    finds another to be faster, and eager on a CPU, which knows no CUDA graphs either.

    Args:
        engine: device and precision.
        alone: whether this process works by itself, even where torchrun started others beside it.

    Raises:
        UserError: a GPU is asked for and there is none, or fewer than ranks; or a mode that is for one rank.
    """
    has_gpu = torch.cuda.is_available()
    if engine.device == "gpu" and not has_gpu:
        raise UserError(
            "--device gpu: torch sees no GPU here; check the driver with nvidia-smi or use --device cpu."
        )
    use_gpu = has_gpu and engine.device != "cpu"
    if use_gpu and local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"This machine has more ranks than GPUs that torch sees ({torch.cuda.device_count()}); "
            "start as many as there are GPUs."
        )
    if use_gpu:
        torch.cuda.set_device(local_rank())
    if engine.compile == "step" and not alone and world_size() > 1:
        raise UserError("engine.compile=step is for one rank; use --set engine.compile=on.")
    return Machine(
        device=torch.device("cuda", local_rank()) if use_gpu else torch.device("cpu"),
        ranks=Ranks() if alone else join_process_group(use_gpu),
        bfloat16=engine.precision == "bfloat16" or (engine.precision == "auto" and use_gpu),
        mode=_mode(engine.compile, use_gpu),
    )
