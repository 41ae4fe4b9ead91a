"""The machine a run is on: device, precision, compilation."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from fasticcl.config import Engine
from fasticcl.errors import UserError


@dataclass(frozen=True)
class Machine:
    """Where tensors live and how forward passes are computed."""

    device: torch.device
    bfloat16: bool
    """Whether forward passes run under bfloat16 autocast; losses and centroids stay in float32."""
    compiled: bool
    """Whether forward passes in training go through torch.compile."""

    @property
    def gpu(self) -> int | None:
        """Device number for DALI; None on the CPU."""
        return self.device.index if self.device.type == "cuda" else None

    def autocast(self) -> torch.autocast:
        """Return the context for a forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, its weights in the memory format of the images."""
        return module.to(self.device).to(memory_format=torch.channels_last)

    def forward_of(self, module: torch.nn.Module) -> Callable[..., Any]:
        """Return what computes a module's forward pass in training: the module, compiled where that pays."""
        return torch.compile(module) if self.compiled else module

    def describe(self) -> str:
        """Return device, precision and versions in a few words."""
        name = (
            torch.cuda.get_device_name(self.device)
            if self.gpu is not None
            else f"CPU, {torch.get_num_threads()} threads"
        )
        precision = "bfloat16" if self.bfloat16 else "float32"
        return f"{name}, {precision}, {'compiled' if self.compiled else 'eager'}, torch {torch.__version__}"


def choose_machine(engine: Engine) -> Machine:
    """Return the machine that the configuration asks for.

    Raises:
        UserError: a GPU is asked for and there is none, or the command was started as several ranks.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("This version trains in one process; start it without torchrun.")
    has_gpu = torch.cuda.is_available()
    if engine.device == "gpu" and not has_gpu:
        raise UserError(
            "--device gpu: torch sees no GPU here; check the driver with nvidia-smi or use --device cpu."
        )
    use_gpu = has_gpu and engine.device != "cpu"
    return Machine(
        device=torch.device("cuda", 0) if use_gpu else torch.device("cpu"),
        bfloat16=engine.precision == "bfloat16" or (engine.precision == "auto" and use_gpu),
        compiled=engine.compile == "on" or (engine.compile == "auto" and use_gpu),
    )
