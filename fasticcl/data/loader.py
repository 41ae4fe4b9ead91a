"""The loader: plan and shards in, batches of torch tensors out."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data import graph
from fasticcl.data.plan import Phase, Plan, StreamPlan, evaluation_stream
from fasticcl.data.shards import DamagedImages, Shards
from fasticcl.errors import TrainingFailed


@dataclass(frozen=True)
class StreamBatch:
    """A batch of one stream: warm-up, rebalancing or evaluation.

    Images are float32, normalised and in channels_last memory format, on the loader's device.
    """

    x: torch.Tensor
    """[B, 3, S, S] images."""
    y: torch.Tensor
    """[B] int64 classes."""

    @property
    def images(self) -> int:
        """How many images were decoded for the batch."""
        return len(self.y)


@dataclass(frozen=True)
class Batch:
    """A batch of the interpolative phase: both streams, images as in `StreamBatch`."""

    x_h: torch.Tensor
    """[B, 3, S, S] class-agnostic images."""
    y_h: torch.Tensor
    """[B] int64 classes of x_h."""
    x_f: torch.Tensor
    """[B, 3, S, S] interpolative images λ·x_h + (1 - λ)·x_t (equation 3)."""
    y_t: torch.Tensor
    """[B] int64 classes of the class-aware images x_t."""
    lam: torch.Tensor
    """[B] float32 λ."""

    @property
    def images(self) -> int:
        """How many images were decoded for the batch, both streams."""
        return len(self.y_h) + len(self.y_t)


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
        prefetch: int = 3,
        gpu: int | None = None,
    ) -> None:
        self.shards, self.plan = shards, plan
        self.steps = min(plan.steps_per_epoch, most_steps or plan.steps_per_epoch)
        self._options = {"threads": threads or available_cores(), "prefetch": prefetch, "gpu": gpu}

    def batches(self, phase: Phase, epoch: int = 0, step: int = 0) -> Iterator[Batch | StreamBatch]:
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
            padded=data.crop == "pad",
            jitter=jitter,
            batch_size=self.plan.part.stop - self.plan.part.start,
            **self._options,
        )
        kind = Batch if phase == "interpolative" else StreamBatch
        while True:
            yield kind(*map(_tensor, _run(pipeline, self._options["gpu"])))


def evaluation_batches(
    shards: Shards,
    data: Data,
    *,
    batch_size: int,
    threads: int | None = None,
    prefetch: int = 3,
    gpu: int | None = None,
) -> Iterator[StreamBatch]:
    """Yield every image of a split once, in index order; the last batch may be smaller.

    The graph is that of training, fed with centre crops instead of random choices.
    """

    def rows_of(iteration: int) -> NDArray[np.int64]:
        return np.arange(iteration * batch_size, min((iteration + 1) * batch_size, len(shards)))

    def feed(iteration: int) -> list[Any]:
        rows = rows_of(iteration)
        if not len(rows):
            raise StopIteration
        return _inputs(shards, evaluation_stream(shards.index, rows, data), jitter=False)

    pipeline = graph.build(
        feed,
        data,
        mixed=False,
        padded=False,
        jitter=False,
        batch_size=batch_size,
        threads=threads or available_cores(),
        prefetch=prefetch,
        gpu=gpu,
    )
    for _ in range(-(-len(shards) // batch_size)):
        yield StreamBatch(*map(_tensor, _run(pipeline, gpu)))


def draw_stream(shards: Shards, stream: StreamPlan, data: Data) -> StreamBatch:
    """Return the images of one stream as its plan has them, through the graph of training, on the CPU."""
    jitter = any(data.color_jitter)
    pipeline = graph.build(
        lambda _: _inputs(shards, stream, jitter),
        data,
        mixed=False,
        padded=data.crop == "pad",
        jitter=jitter,
        batch_size=len(stream.rows),
        threads=available_cores(),
        prefetch=1,
        gpu=None,
    )
    return StreamBatch(*map(_tensor, _run(pipeline, None)))


def _inputs(shards: Shards, stream: StreamPlan, jitter: bool) -> list[Any]:
    """Return what the graph is fed for one stream."""
    try:
        images = shards.images(stream.rows)
    except DamagedImages as error:
        raise TrainingFailed(
            f"{error}: damaged since the conversion; convert {shards.folder.parent} again."
        ) from None
    inputs = [
        images,
        stream.labels,
        np.ascontiguousarray(stream.windows[:, :2]),
        np.ascontiguousarray(stream.windows[:, 2:]),
        stream.sizes,
        stream.cuts,
        stream.flips,
    ]
    return [*inputs, stream.colors] if jitter else inputs


def _run(pipeline: Any, gpu: int | None) -> Any:
    try:
        # On a GPU the outputs are ordered with torch's own work instead of waiting for them here.
        return pipeline.run() if gpu is None else pipeline.run(torch.cuda.current_stream(gpu))
    except RuntimeError as error:
        raise TrainingFailed(f"A batch could not be decoded: {str(error).splitlines()[0]}") from error


def _tensor(output: Any) -> torch.Tensor:
    """Return a pipeline output as a tensor that shares its memory, images as [B, 3, S, S]."""
    tensor = torch.from_dlpack(output.as_tensor())
    return tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor
