"""Statistics of an epoch: mean losses, throughput, and the time for data, evaluation and saving."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

from fasticcl.engine.run.checkpoint import EpochSums, Record
from fasticcl.engine.stages.stage import Losses
from fasticcl.system.ranks import Ranks

_NEVER = 2**62  # larger than any step number


class EpochStats:
    """Sums the losses of an epoch on the device and times its steps, without waiting for a GPU.

    Args:
        ranks: the processes whose losses are averaged.
        device: device of the losses.
        partial: sums of the same epoch from a checkpoint.
    """

    def __init__(self, ranks: Ranks, device: torch.device, partial: EpochSums | None = None) -> None:
        partial = partial or {}
        self.ranks = ranks
        sums = partial.get("sums", {})
        self.sums: Losses = {name: _rank_share(value, ranks).to(device) for name, value in sums.items()}
        self.steps: int = partial.get("steps", 0)
        self.images, self.waited = 0, 0.0
        self.began = time.perf_counter()
        self.first_bad: torch.Tensor | None = None

    def add(self, losses: Losses, images: int, waited: float) -> None:
        """Add a step: its losses, its number of images and the seconds spent waiting for them."""
        for name, value in losses.items():
            value = value.detach()
            before = self.sums.get(name)
            self.sums[name] = value if before is None else before + value
        loss = losses["loss"].detach()
        bad = torch.where(loss.isfinite(), _NEVER, self.steps)
        self.first_bad = bad if self.first_bad is None else torch.minimum(self.first_bad, bad)
        self.steps += 1
        self.images += images
        self.waited += waited

    def partial(self) -> EpochSums:
        """Return the sums of every rank, for a checkpoint within the epoch."""
        sums = {name: self.ranks.all_gather(value.reshape(1)) for name, value in self.sums.items()}
        return {"sums": sums, "steps": self.steps}

    def bad_step(self) -> int | None:
        """Return the first step of this process in which a loss of any rank was not finite, or None."""
        if self.first_bad is None:
            return None
        first = int(self.ranks.all_gather(self.first_bad.reshape(1)).min())
        return first if first < _NEVER else None

    def record(self) -> Record:
        """Return the means so far over all ranks, or nothing before the first step.

        This waits for the device.
        """
        if not self.steps:
            return {}
        seconds = time.perf_counter() - self.began
        means = self.ranks.all_reduce(torch.stack([*self.sums.values()])) / (
            self.steps * self.ranks.world_size
        )
        return {
            **{f"train/{name}": mean for name, mean in zip(self.sums, means.tolist(), strict=True)},
            "throughput/images_per_sec": self.ranks.world_size * self.images / seconds,
            "time/data_wait_pct": 100 * self.waited / seconds,
        }


class EpochTimes:
    """Measures the seconds between the records of epochs, and the shares of evaluation and of saving.

    A checkpoint at the end of an epoch is written after its record and therefore counts in the next one.
    """

    def __init__(self) -> None:
        self._restart()

    def _restart(self) -> None:
        self._began = time.perf_counter()
        self._spent = {"eval": 0.0, "save": 0.0}

    @contextmanager
    def measure(self, activity: Literal["eval", "save"]) -> Iterator[None]:
        """Return a context manager that adds its duration to an activity."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._spent[activity] += time.perf_counter() - began

    def record(self) -> Record:
        """Return the seconds since the previous record and the shares, and start from zero."""
        seconds = time.perf_counter() - self._began
        shares = {f"time/{name}_pct": 100 * spent / seconds for name, spent in self._spent.items()}
        self._restart()
        return {"time/epoch_sec": seconds, **shares}


def _rank_share(sums: torch.Tensor, ranks: Ranks) -> torch.Tensor:
    """Return this rank's sum from a checkpoint, or the mean if the number of ranks has changed."""
    return sums[ranks.rank] if len(sums) == ranks.world_size else sums.mean()
