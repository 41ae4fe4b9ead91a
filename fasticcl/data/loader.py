"""The loader: plan and shards in, batches of torch tensors out."""

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data import graph
from fasticcl.data.bad_samples import BadSamples, undecodable
from fasticcl.data.batch import Batch, StreamBatch
from fasticcl.data.cache import Cache, CacheLocation
from fasticcl.data.dali_pipeline import GraphPipeline, PipelineOptions
from fasticcl.data.graph_inputs import GraphSpec
from fasticcl.data.plan import BatchPlan, Phase, Plan, StreamPlan, evaluation_stream
from fasticcl.errors import TrainingFailed
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.resources import available_cores


class Loader:
    """Batches of a training split, as the plan draws them.

    An image that cannot be read any more is replaced by another of its class, which the plan draws too.

    Args:
        shards: the training split.
        plan: every random choice.
        threads: threads that decode and augment; None: one per core.
        prefetch: batches prepared ahead.
        gpu: device number; None: the CPU.
        cache_location: where all images that the plan draws are kept, decoded before the first batch.
        warn: called once for each unreadable image with a sentence that names it.
        most_steps: steps after which an epoch is cut short; None: never.
    """

    def __init__(
        self,
        shards: Shards,
        plan: Plan,
        *,
        cache_location: CacheLocation = "off",
        warn: Callable[[str], None] = lambda _: None,
        most_steps: int | None = None,
        threads: int | None = None,
        prefetch: int = 3,
        gpu: int | None = None,
    ) -> None:
        self.shards, self.plan = shards, plan
        self.steps = min(plan.steps_per_epoch, most_steps or plan.steps_per_epoch)
        self.bad_samples = BadSamples(shards, plan, warn)
        self._cache_location: CacheLocation = cache_location
        self._cache: Cache | None = None
        batch_size = plan.part.stop - plan.part.start
        self._options = PipelineOptions(batch_size, threads or available_cores(), prefetch, gpu)

    def batches(self, phase: Phase, epoch: int = 0, step: int = 0) -> Iterator[Batch | StreamBatch]:
        """Yield this rank's batches from a step on, epoch after epoch, without end.

        The pipeline runs ahead over the ends of epochs; close the iterator, or drop it, to stop it.

        Raises:
            TrainingFailed: too many images cannot be read, or all of a class.
        """
        kind = Batch if phase == "interpolative" else StreamBatch
        first = epoch * self.steps + step
        pipeline, fed = self._pipeline(phase, first)
        for iteration in itertools.count(first):
            while (tensors := self._try(pipeline, fed, iteration)) is None:
                pipeline, fed = self._pipeline(phase, iteration)
            del fed[iteration]
            yield kind(*tensors)

    def names(self, phase: Phase, epoch: int, step: int) -> list[str]:
        """Return what the images of a step are called in the shards, both streams."""
        rows = [stream.rows for stream in self._planned(phase, epoch * self.steps + step).streams]
        return [self.shards.name(row) for row in np.concatenate(rows).tolist()]

    def _try(
        self, pipeline: GraphPipeline, fed: dict[int, NDArray[np.integer]], iteration: int
    ) -> list[torch.Tensor] | None:
        """Return the next outputs, or None: images that cannot be decoded were found and will be replaced."""
        try:
            return pipeline.tensors()
        except RuntimeError as error:
            # DALI gives up the whole batch and does not always say for which image.
            self.bad_samples.find_undecodable(fed[iteration], error)
            return None

    def _pipeline(self, phase: Phase, first: int) -> tuple[GraphPipeline, dict[int, NDArray[np.integer]]]:
        """Return a pipeline that starts at an iteration, and the rows that each batch was made from."""
        source, fed = self._source(), {}
        spec = GraphSpec.training(self.plan.data, phase, source)

        def feed(iteration: int) -> list[Any]:
            while True:
                planned = self._planned(phase, first + iteration)
                try:
                    values = spec.values(source, planned)
                except DamagedImages as error:
                    self.bad_samples.report(error.rows, error.reason)
                else:
                    fed[first + iteration] = np.concatenate([stream.rows for stream in planned.streams])
                    return values

        return graph.build(feed, spec, self._options), fed

    def _source(self) -> Shards | Cache:
        """Return where images come from: the shards or, once it is filled, the cache."""
        if self._cache_location == "off":
            return self.shards
        if self._cache is None:
            gc.collect()  # DALI's operators refer to themselves: an earlier pipeline's may hold a cache
            self._cache = Cache(
                self.shards,
                self.plan.rows,
                self._options.threads,
                self.bad_samples.report,
                location=self._cache_location,
                gpu=self._options.gpu,
            )
        return self._cache

    def _planned(self, phase: Phase, iteration: int) -> BatchPlan:
        place = divmod(iteration, self.steps)
        planned = self.plan.batch(phase, *place)
        if not self.bad_samples:
            return planned
        streams = (planned.agnostic, planned.aware)
        agnostic, aware = (each and self.bad_samples.substitute_in(each, phase, *place) for each in streams)
        return replace(planned, agnostic=agnostic, aware=aware)


def evaluation_batches(
    shards: Shards,
    data: Data,
    *,
    rows: NDArray[np.int64] | None = None,
    cache: Cache | None = None,
    batch_size: int,
    threads: int | None = None,
    prefetch: int = 3,
    gpu: int | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[StreamBatch]:
    """Yield every image of a split once, in index order or that of ``rows``; the last batch may be smaller.

    The graph is that of training, fed with centre crops instead of random choices. Of several ranks each
    takes every ``world_size``-th batch. With a ``cache`` of the split the images come from there.

    Raises:
        TrainingFailed: an image cannot be read; an accuracy without it would be another one.
    """
    source = cache or shards
    spec = GraphSpec.evaluation(data, source)
    size = len(shards) if rows is None else len(rows)
    mine = range(rank, -(-size // batch_size), world_size)

    def rows_of(batch: int) -> NDArray[np.int64]:
        places = np.arange(batch * batch_size, min((batch + 1) * batch_size, size))
        return places if rows is None else rows[places]

    def feed(iteration: int) -> list[Any]:
        if iteration >= len(mine):
            raise StopIteration
        stream = evaluation_stream(shards.index, rows_of(mine[iteration]), data)
        return spec.values(source, BatchPlan(stream, None, None))

    options = PipelineOptions(batch_size, threads or available_cores(), prefetch, gpu)
    pipeline = graph.build(feed, spec, options)
    for batch in mine:
        try:
            tensors = pipeline.tensors()
        except DamagedImages as error:
            raise TrainingFailed(f"{error}; convert {shards.folder.parent} again.") from None
        except RuntimeError as error:
            names = undecodable(shards, rows_of(batch))
            reason = str(error).splitlines()[0]
            if not names:
                raise TrainingFailed(f"A batch could not be decoded: {reason}") from error
            raise TrainingFailed(
                f"{', '.join(names)} cannot be decoded ({reason}); convert {shards.folder.parent} again."
            ) from None
        yield StreamBatch(*tensors)


def draw_stream(shards: Shards, stream: StreamPlan, data: Data) -> StreamBatch:
    """Return the images of one stream as its plan has them, through the graph of training, on the CPU."""
    spec = GraphSpec.training(data, "warmup", shards)  # a phase with one stream
    options = PipelineOptions(len(stream.rows), available_cores(), prefetch=1, gpu=None)
    pipeline = graph.build(lambda _: spec.values(shards, BatchPlan(stream, None, None)), spec, options)
    return StreamBatch(*pipeline.tensors())
