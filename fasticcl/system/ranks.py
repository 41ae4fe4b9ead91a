"""The processes that train one network together: who this is, and what they say to each other.

Each holds a copy of the network and a slice of every global batch. ``torchrun`` starts them and says who
is who; a process on its own is rank 0 of 1, and nothing here costs it anything.
"""

import atexit
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from fasticcl.errors import TrainingFailed, UserError
from fasticcl.system import rank_environment

_PATIENCE = timedelta(minutes=10)  # rank 0 may write a checkpoint to a slow disk while the others wait


class Ranks:
    """This process among ``world_size``; every method but the properties is called by all of them alike.

    Args:
        rank: number of this process.
        world_size: how many there are.
    """

    def __init__(self, rank: int = 0, world_size: int = 1) -> None:
        self.rank, self.world_size = rank, world_size
        self._control: Any = dist.new_group(backend="gloo") if world_size > 1 else None
        self._asked: tuple[dist.Work, torch.Tensor] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and talks to the person."""
        return self.rank == 0

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the tensors [B, ...] of all ranks in order, [world_size · B, ...], without gradient."""
        if self.world_size == 1:
            return tensor.detach()
        tensor = tensor.detach().contiguous()
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    def all_reduce(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of a tensor over the ranks."""
        if self.world_size == 1:
            return tensor
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    def average_buffers(self, module: nn.Module) -> None:
        """Give all ranks the mean of the floating-point buffers (the running statistics of batch norm)."""
        # A frozen encoder's are equal already, and the mean of three equal numbers may be another.
        training = (part for part in module.modules() if part.training)
        buffers = [b for part in training for b in part.buffers(recurse=False) if b.is_floating_point()]
        if self.world_size == 1 or not buffers:
            return
        flat = torch.cat([buffer.reshape(-1) for buffer in buffers])
        dist.all_reduce(flat)
        flat /= self.world_size
        for buffer, mean in zip(buffers, flat.split([buffer.numel() for buffer in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))

    def all_gather_object(self, value: Any) -> list[Any]:
        """Return what each rank passed, in order."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value, group=self._control)
        return values

    def broadcast_object(self, value: Any) -> Any:
        """Return what rank 0 passed."""
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, group=self._control)
        return box[0]

    def run_on_main(self, work: Callable[[], Any]) -> Any:
        """Return what ``work`` returns on rank 0; its UserError there is raised on every rank."""
        outcome = None
        if self.is_main:
            try:
                outcome = work()
            except UserError as error:
                outcome = error
        outcome = self.broadcast_object(outcome)
        if isinstance(outcome, UserError):
            raise outcome
        return outcome

    @contextmanager
    def report_lost_rank(self) -> Iterator[None]:
        """Work that every rank takes part in.

        Raises:
            TrainingFailed: another rank is gone.
        """
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1 or not (isinstance(error, dist.DistError) or "gloo" in str(error)):
                raise
            time.sleep(1)  # torchrun blames the rank that it sees end first: let that be the other
            raise TrainingFailed(
                f"Another rank is gone, and rank {self.rank} cannot go on without it; see what that one or "
                "torchrun says of the reason, then go on from the last checkpoint with --resume."
            ) from None

    def delayed_max(self, *numbers: int) -> list[int]:
        """Return the largest of the numbers that any rank passed, one by one: all ranks get the same.

        Among several ranks these are the numbers of the call before: they are asked for now and fetched
        at the next call, so that no step waits for them.
        """
        if self.world_size == 1:
            return [*numbers]
        agreed = self.flush_delayed_max() or [0] * len(numbers)
        asked = torch.tensor(numbers)
        work = dist.all_reduce(asked, dist.ReduceOp.MAX, group=self._control, async_op=True)
        self._asked = work, asked
        return agreed

    def flush_delayed_max(self) -> list[int] | None:
        """Fetch the answer that is under way, or None."""
        if self._asked is None:
            return None
        work, asked = self._asked
        self._asked = None
        work.wait()
        return asked.tolist()


def join_process_group(gpu: bool) -> Ranks:
    """Return this process's place among those that ``torchrun`` started, after they have met.

    Raises:
        UserError: something else than torchrun says that there are several.
        TrainingFailed: the others did not come.
    """
    world_size = rank_environment.world_size()
    if world_size == 1:
        return Ranks()
    if not rank_environment.is_launched_rank():
        raise UserError(
            f"WORLD_SIZE is {world_size} and there is no RANK: start the ranks with torchrun or --nproc."
        )
    if not dist.is_initialized():
        store, rank, _ = next(dist.rendezvous("env://", timeout=_PATIENCE))
        backend = "nccl" if gpu else "gloo"
        own = _own_part(store, rank, world_size)
        dist.init_process_group(backend, timeout=_PATIENCE, store=own, rank=rank, world_size=world_size)
        if not gpu:  # gloo's threads abort a process that ends while they run
            atexit.register(dist.destroy_process_group)
    return Ranks(dist.get_rank(), world_size)


def _own_part(store: dist.Store, rank: int, world_size: int) -> dist.Store:
    """Return a part of the store that all ranks share and to which no ranks of an earlier start have written.

    torchrun keeps its store when it starts ranks again, and with it the addresses of those that ended. So
    each rank says a word that nobody has heard before, and rank 0 answers it with the name of the part.
    """
    word = secrets.token_hex(8)
    store.set(f"fasticcl/{rank}", word)
    if rank:
        part = store.get(f"fasticcl/{word}").decode()
        store.set(f"fasticcl/{word}/{part}", "heard")
        return dist.PrefixStore(part, store)
    waiting, latest = set(range(1, world_size)), time.monotonic() + _PATIENCE.total_seconds()
    while waiting:
        if time.monotonic() > latest:
            raise TrainingFailed(f"Ranks {sorted(waiting)} did not come within {_PATIENCE}; start all again.")
        for other in sorted(waiting):
            said = store.get(f"fasticcl/{other}").decode()  # perhaps by one that ended
            store.set(f"fasticcl/{said}", word)
            if store.check([f"fasticcl/{said}/{word}"]):
                waiting.discard(other)
        time.sleep(0.01)
    return dist.PrefixStore(word, store)
