"""The loader, which turns a plan and shards into batches of torch tensors."""

import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.bad_samples import BadSamples
from fasticcl.data.batch import Batch, PairBatch, StreamBatch, TrainingBatch
from fasticcl.data.cache import Cache, CacheLocation
from fasticcl.data.dali import graph
from fasticcl.data.dali.decoding import Decoder
from fasticcl.data.dali.errors import BatchFailed
from fasticcl.data.dali.graph_inputs import GraphSpec
from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions
from fasticcl.data.plan import BatchPlan, Phase, Plan, StreamPlan
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.resources import available_cores, decoding_threads


class Loader:
    """Batches of a training split, as drawn by the plan.

    An unreadable image is replaced by another image of its class, which the plan also draws.

    Args:
        shards: the training split.
        plan: draws every random choice.
        cache_location: memory in which all images of the plan are decoded before the first batch. With off,
            they are decoded in every epoch.
        warn: called once per unreadable image with a message that names it.
        max_steps: maximum number of steps per epoch, or None for no limit.
        threads: threads that decode and augment, or None for the number of `decoding_threads`.
        prefetch: number of batches prepared in advance.
        gpu: device number, or None for the CPU.
        copy_outputs: True if training captures CUDA graphs, see `PipelineOptions`.

    Attributes:
        steps: steps per epoch.
        bad_samples: the unreadable images found so far.
        options: size and resources of the pipelines.
    """

    def __init__(
        self,
        shards: Shards,
        plan: Plan,
        *,
        cache_location: CacheLocation = "off",
        warn: Callable[[str], None] = lambda _: None,
        max_steps: int | None = None,
        threads: int | None = None,
        prefetch: int = 3,
        gpu: int | None = None,
        copy_outputs: bool = False,
    ) -> None:
        self.shards, self.plan = shards, plan
        self.steps = min(plan.steps_per_epoch, max_steps or plan.steps_per_epoch)
        self.bad_samples = BadSamples(shards, plan, warn)
        self._cache_location: CacheLocation = cache_location
        self._cache: Cache | None = None
        batch_size = plan.part.stop - plan.part.start
        threads = threads or decoding_threads(gpu is not None)
        self.options = PipelineOptions(batch_size, threads, prefetch, gpu, copy_outputs)
        self._decoder = Decoder(threads, gpu, plan.data.hw_decoder_load)

    def batches(self, phase: Phase, epoch: int = 0, step: int = 0) -> Iterator[TrainingBatch]:
        """Yield this rank's batches endlessly, epoch after epoch, starting at a step.

        The pipeline prefetches across the ends of epochs. Close or delete the iterator to stop it.

        Raises:
            TrainingFailed: too many images, or all images of a class, are unreadable, or DALI failed for
                another reason.
        """
        first = epoch * self.steps + step
        pipeline, fed = self._pipeline(phase, first)
        for iteration in itertools.count(first):
            while (tensors := self._try(pipeline, fed, iteration)) is None:
                pipeline, fed = self._pipeline(phase, iteration)
            del fed[iteration]
            yield self._batch(phase, iteration, tensors)

    def _batch(self, phase: Phase, iteration: int, tensors: list[torch.Tensor]) -> TrainingBatch:
        if phase == "interpolative" and self.plan.data.mixing != "none":
            return Batch(*tensors)
        kind = PairBatch if phase == "interpolative" else StreamBatch
        return kind(*tensors, rng=self.plan.method_rng(phase, *divmod(iteration, self.steps)))

    def names(self, phase: Phase, epoch: int, step: int) -> list[str]:
        """Return the names of the images of a step in the shards, for both streams."""
        rows = [stream.rows for stream in self.planned(phase, epoch * self.steps + step).streams]
        return [self.shards.name(row) for row in np.concatenate(rows).tolist()]

    def _try(
        self, pipeline: GraphPipeline, fed: dict[int, NDArray[np.integer]], iteration: int
    ) -> list[torch.Tensor] | None:
        """Return the next outputs, or None if the batch has undecodable images, which are then reported."""
        try:
            return pipeline.tensors()
        except BatchFailed as error:
            # DALI drops the whole batch and does not always name the image.
            rows = fed.get(iteration, np.empty(0, np.int64))
            self.bad_samples.find_undecodable(rows, self._decoder, error)
            return None

    def _pipeline(self, phase: Phase, first: int) -> tuple[GraphPipeline, dict[int, NDArray[np.integer]]]:
        """Return a pipeline that starts at an iteration, and the rows of each batch that it was fed."""
        source, fed = self._source(), {}
        spec = GraphSpec.training(self.plan.data, phase, source)

        def feed(iteration: int) -> list[Any]:
            while True:
                planned = self.planned(phase, first + iteration)
                try:
                    values = spec.values(source, planned)
                except DamagedImages as error:
                    self.bad_samples.report(error.rows, error.reason)
                else:
                    fed[first + iteration] = np.concatenate([stream.rows for stream in planned.streams])
                    return values

        return graph.build(feed, spec, self.options), fed

    def _source(self) -> Shards | Cache:
        """Return the source of the images: the shards, or the cache, which the first call fills."""
        if self._cache_location == "off":
            return self.shards
        if self._cache is None:
            gc.collect()  # DALI's operators form reference cycles, which may keep an earlier cache alive
            self._cache = Cache(
                self.shards,
                self.plan.rows,
                self.options.threads,
                self.bad_samples.report,
                location=self._cache_location,
                gpu=self.options.gpu,
            )
        return self._cache

    def planned(self, phase: Phase, iteration: int) -> BatchPlan:
        """Return the plan of an iteration, counted over all epochs, without unreadable images."""
        epoch, step = divmod(iteration, self.steps)
        planned = self.plan.batch(phase, epoch, step)
        if not self.bad_samples:
            return planned
        agnostic, aware = (
            stream and self.bad_samples.substitute_in(stream, phase, epoch, step)
            for stream in (planned.agnostic, planned.aware)
        )
        return replace(planned, agnostic=agnostic, aware=aware)


def draw_stream(shards: Shards, stream: StreamPlan, data: Data) -> StreamBatch:
    """Return the images of one planned stream, computed by the training graph on the CPU."""
    spec = GraphSpec.training(data, "warmup", shards)  # a phase with one stream
    options = PipelineOptions(len(stream.rows), available_cores(), prefetch=1, gpu=None)
    pipeline = graph.build(lambda _: spec.values(shards, BatchPlan(stream, None, None)), spec, options)
    return StreamBatch(*pipeline.tensors())
