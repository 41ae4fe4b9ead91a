"""The loader: plan and shards in, batches of torch tensors out."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fasticcl.config import Data
from fasticcl.data import graph
from fasticcl.data.plan import Phase, Plan, StreamPlan, evaluation_stream
from fasticcl.data.shards import Shards


@dataclass(frozen=True)
class Batch:
    """One step's images and labels; what the phase does not use is None.

    Images are float32, normalised, [B, 3, S, S] in channels_last memory format, on the loader's device.
    """

    x_h: torch.Tensor | None = None
    """Class-agnostic images (warm-up and interpolative phase)."""
    y_h: torch.Tensor | None = None
    """[B] int64 labels of x_h."""
    x_f: torch.Tensor | None = None
    """Interpolative images λ·x_h + (1 - λ)·x_t (equation 3; interpolative phase)."""
    x_t: torch.Tensor | None = None
    """Class-aware images (rebalancing)."""
    y_t: torch.Tensor | None = None
    """[B] int64 labels of the class-aware images."""
    lam: torch.Tensor | None = None
    """[B] float32 λ."""

    @property
    def images(self) -> int:
        """How many images were decoded for the batch, both streams."""
        return sum(len(labels) for labels in (self.y_h, self.y_t) if labels is not None)


def available_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


class Loader:
    """Batches of a training split, as the plan draws them.

    Args:
        shards: the training split.
        plan: every random choice.
        threads: threads that decode and augment; None: one per core.
        prefetch: batches prepared ahead.
        gpu: device number; None: the CPU.
        most_steps: steps after which an epoch is cut short; None: never.
    """

    def __init__(
        self,
        shards: Shards,
        plan: Plan,
        *,
        most_steps: int | None = None,
        threads: int | None = None,
        prefetch: int = 2,
        gpu: int | None = None,
    ) -> None:
        self.shards, self.plan = shards, plan
        self.steps = min(plan.steps_per_epoch, most_steps or plan.steps_per_epoch)
        self._options = {"threads": threads or available_cores(), "prefetch": prefetch, "gpu": gpu}

    def batches(self, phase: Phase, epoch: int = 0, step: int = 0) -> Iterator[Batch]:
        """Yield this rank's batches from a step on, epoch after epoch, without end.

        The pipeline runs ahead over the ends of epochs; close the iterator, or drop it, to stop it.
        """
        data = self.plan.data
        jitter = any(data.color_jitter)
        first = epoch * self.steps + step

        def feed(iteration: int) -> list[Any]:
            planned = self.plan.batch(phase, *divmod(first + iteration, self.steps))
            streams = [s for s in (planned.agnostic, planned.aware) if s is not None]
            inputs = [value for stream in streams for value in _inputs(self.shards, stream, jitter)]
            return inputs if planned.lam is None else [*inputs, planned.lam]

        pipeline = graph.build(
            feed,
            data,
            mixed=phase == "interpolative",
            jitter=jitter,
            batch_size=self.plan.part.stop - self.plan.part.start,
            **self._options,
        )
        names = {
            "warmup": ("x_h", "y_h"),
            "interpolative": ("x_h", "y_h", "x_f", "y_t", "lam"),
            "rebalance": ("x_t", "y_t"),
        }[phase]
        while True:
            yield Batch(**dict(zip(names, map(_tensor, pipeline.run()), strict=True)))


def evaluation_batches(
    shards: Shards,
    data: Data,
    *,
    batch_size: int,
    threads: int | None = None,
    prefetch: int = 2,
    gpu: int | None = None,
) -> Iterator[Batch]:
    """Yield every image of a split once, in index order, as x_h and y_h; the last batch may be smaller.

    The graph is that of training, fed with the centre crop of section 4.3's references instead of random choices.
    """

    def feed(iteration: int) -> list[Any]:
        rows = np.arange(iteration * batch_size, min((iteration + 1) * batch_size, len(shards)))
        if not len(rows):
            raise StopIteration
        return _inputs(shards, evaluation_stream(shards.index, rows, data), jitter=False)

    pipeline = graph.build(
        feed,
        data,
        mixed=False,
        jitter=False,
        batch_size=batch_size,
        threads=threads or available_cores(),
        prefetch=prefetch,
        gpu=gpu,
    )
    for _ in range(0, len(shards), batch_size):
        images, labels = map(_tensor, pipeline.run())
        yield Batch(x_h=images, y_h=labels)


def _inputs(shards: Shards, stream: StreamPlan, jitter: bool) -> Sequence[Any]:
    """Return what the graph is fed for one stream."""
    inputs = [
        [shards.image(row) for row in stream.rows],
        stream.labels,
        np.ascontiguousarray(stream.windows[:, :2]),
        np.ascontiguousarray(stream.windows[:, 2:]),
        stream.sizes,
        stream.cuts,
        stream.flips,
    ]
    return [*inputs, stream.colors] if jitter else inputs


def _tensor(output: Any) -> torch.Tensor:
    """Return a pipeline output as a tensor that shares its memory; images come as [B, 3, S, S], channels_last."""
    tensor = torch.from_dlpack(output.as_tensor())
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
