"""The processes that train one network together, and their collective operations.

Each rank has a copy of the network and gets a slice of every global batch. ``torchrun`` or ``--nproc``
launches the ranks. A single process is rank 0 of 1 and does not communicate.
"""

import atexit
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import nn

from fasticcl.errors import Stopped, TrainingFailed, UserError
from fasticcl.system import rank_environment

_TIMEOUT = timedelta(minutes=10)  # the other ranks wait while rank 0 writes a checkpoint to a slow disk
_ended_together = False  # True if all ranks have left the last `report_lost_rank` block in the same way


class Ranks:
    """One rank among ``world_size``. All ranks must call its methods in the same order.

    Args:
        rank: rank of this process.
        world_size: number of ranks.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._control: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._pending: tuple[dist.Work, torch.Tensor] | None = None
        self._owners: WeakKeyDictionary[nn.Module, list[tuple[nn.Module, str]]] = WeakKeyDictionary()

    @property
    def is_main(self) -> bool:
        """Return True for rank 0, which writes the files and prints progress."""
        return self.rank == 0

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors [B, ...] of all ranks as one [world_size · B, ...], without gradient."""
        if self.world_size == 1:
            return tensor.detach()
        tensor = tensor.detach().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over all ranks."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def average_buffers(self, module: nn.Module) -> None:
        """Average running statistics over all ranks: those of batch normalisation and ``averaged_buffers``.

        A class of modules names other running statistics in its attribute ``averaged_buffers``. The
        statistics of a module are averaged while it is in training mode.
        """
        if self.world_size == 1:
            return
        # Other buffers, such as the scale of a cosine classifier, and those of a frozen encoder are equal
        # already. The mean of equal numbers can differ by rounding.
        buffers = [getattr(child, name) for child, name in self._statistics(module) if child.training]
        if not buffers:
            return
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.all_reduce(flat)
        flat /= self.world_size
        means = flat.split([buffer.numel() for buffer in buffers])
        torch._foreach_copy_(buffers, [m.view_as(b) for m, b in zip(means, buffers, strict=True)])

    def _statistics(self, module: nn.Module) -> list[tuple[nn.Module, str]]:
        """Return the owner and the name of each running statistic. The first call searches the module."""
        if module not in self._owners:
            self._owners[module] = [
                (child, name) for child in module.modules() for name in _statistics_of(child)
            ]
        return self._owners[module]

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return the objects of all ranks, in the order of the ranks."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return the object of rank 0."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, group=self._control)
        return values[0]

    def run_on_main(self, function: Callable[[], Any]) -> Any:
        """Call a function on rank 0 and return its result, or raise its UserError, on every rank."""
        outcome = None
        if self.is_main:
            try:
                outcome = function()
            except UserError as error:
                outcome = error
        outcome = self.broadcast_object(outcome)
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    @contextmanager
    def report_lost_rank(self) -> Iterator[None]:
        """Convert the failure of another rank into TrainingFailed within a ``with`` block.

        The outcome also decides whether NCCL is shut down when the process exits, see `_leave`.

        Raises:
            TrainingFailed: another rank has exited.
        """
        global _ended_together
        _ended_together = False
        try:
            yield
            _ended_together = True
        except Stopped:  # all ranks stop after the same step
            _ended_together = True
            raise
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            time.sleep(1)  # torchrun reports the first rank that exits, which should be the one that failed
            raise TrainingFailed(
                f"Another rank has exited, so rank {self.rank} cannot continue. The output of "
                "the other rank or of torchrun contains the reason. "
                "Continue from the last checkpoint with --resume."
            ) from None

    def delayed_max(self, *numbers: int) -> list[int]:
        """Return the maximum over all ranks of each number.

        With several ranks these are the maxima of the previous call (0 at first). The reduction runs in the
        background until the next call, so no step waits for it.
        """
        if self.world_size == 1:
            return [*numbers]
        maxima = self.flush_delayed_max() or [0] * len(numbers)
        values = torch.tensor(numbers)
        work = dist.all_reduce(values, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._pending = work, values
        return maxima

    def flush_delayed_max(self) -> list[int] | None:
        """Return the maxima of the last `delayed_max` call, or None if there is no pending call."""
        if self._pending is None:
            return None
        work, values = self._pending
        self._pending = None
        work.wait()
        return values.tolist()


def _statistics_of(module: nn.Module) -> list[str]:
    """Return the names of the running statistics of a module, without those of its children."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):  # the base class for all dimensions
        buffers = module.named_buffers(recurse=False)
        return [name for name, buffer in buffers if buffer.is_floating_point()]
    return [*getattr(type(module), "averaged_buffers", ())]


def join_process_group(gpu: int | None) -> Ranks:
    """Initialise the process group of the ranks that ``torchrun`` launched and return this rank.

    Args:
        gpu: number of this rank's GPU, whose tensors NCCL exchanges. None means tensors on CPUs, and gloo.

    Raises:
        UserError: WORLD_SIZE is set without RANK.
        TrainingFailed: other ranks did not join in time.
    """
    world_size = rank_environment.world_size()
    if world_size == 1:
        return Ranks()
    if not rank_environment.is_launched_rank():
        raise UserError(
            f"WORLD_SIZE is {world_size}, but RANK is not set. Start the ranks with torchrun or --nproc."
        )
    if not dist.is_initialized():
        store, rank, _ = next(dist.rendezvous("env://", timeout=_TIMEOUT))
        store = _fresh_store(store, rank, world_size)
        dist.init_process_group(
            "gloo" if gpu is None else "nccl",
            timeout=_TIMEOUT,
            store=store,
            rank=rank,
            world_size=world_size,
            # NCCL connects at once, and its errors appear here instead of in the first step.
            device_id=None if gpu is None else torch.device("cuda", gpu),
        )
        atexit.register(_leave, is_nccl=gpu is not None)
    return Ranks(dist.get_rank(), world_size)


def _leave(is_nccl: bool) -> None:
    """Destroy the process group when the process exits.

    The threads of gloo abort a process that exits while they run. NCCL waits for the other ranks, forever if
    one of them has failed, so after a failure the operating system releases its resources.
    """
    if dist.is_initialized() and (_ended_together or not is_nccl):
        dist.destroy_process_group()


def _fresh_store(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """Return a prefix of the store that the ranks share and that no earlier launch has written to.

    torchrun keeps its store when it restarts the ranks, including the addresses of the ranks that exited. So
    each rank publishes a random token, and rank 0 replies to it with the name of the prefix.
    """
    token = secrets.token_hex(8)
    store.set(f"fasticcl/{rank}", token)
    if rank:
        prefix = store.get(f"fasticcl/{token}").decode()
        store.set(f"fasticcl/{token}/{prefix}", "received")
        return dist.PrefixStore(prefix, store)
    missing, deadline = set(range(1, world_size)), time.monotonic() + _TIMEOUT.total_seconds()
    while missing:
        if time.monotonic() > deadline:
            raise TrainingFailed(
                f"Ranks {sorted(missing)} did not join within {_TIMEOUT}. Start all ranks again."
            )
        for other in sorted(missing):
            other_token = store.get(f"fasticcl/{other}").decode()  # possibly of a rank that has exited
            store.set(f"fasticcl/{other_token}", token)
            if store.check([f"fasticcl/{other_token}/{token}"]):
                missing.discard(other)
        time.sleep(0.01)
    return dist.PrefixStore(token, store)
