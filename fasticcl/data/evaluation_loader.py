"""The evaluation loader. Each iteration yields every image of a split once."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.bad_samples import UnreadableImages, unreadable_rows
from fasticcl.data.batch import StreamBatch
from fasticcl.data.cache import Cache
from fasticcl.data.dali import graph
from fasticcl.data.dali.decoding import Decoder
from fasticcl.data.dali.errors import BatchFailed
from fasticcl.data.dali.graph_inputs import GraphSpec
from fasticcl.data.dali.pipeline import GraphPipeline, PipelineOptions
from fasticcl.data.plan import BatchPlan, evaluation_stream
from fasticcl.shards.reader import DamagedImages, Shards
from fasticcl.system.resources import decoding_threads


class EvaluationLoader:
    """Batches of a split. Each iteration yields every image once, in the same order.

    The graph is that of training, with centre crops instead of random choices.

    With ``repeat``, one pipeline serves all iterations and prefetches across their ends, so the first batches
    of the next iteration are ready when it begins. If an iteration stops early, its pipeline is
    discarded, and the next iteration builds a new one.

    Between iterations, ``prefetch`` - 1 batches stay in memory, each with 12·S² bytes per image (154 MB for
    256 images of 224 pixels). DALI's pools keep the memory of a deleted pipeline for the next one, so
    deleting the pipeline would free little: on a CPU, the process did not become smaller.

    Args:
        shards: the split.
        data: image size, resize and normalisation settings.
        rows: rows of the index in the order in which they are yielded, or None for all in index order.
        cache: the decoded images of the split, or None to read them from the shards.
        batch_size: images per batch. The last batch may be smaller.
        max_batches: maximum number of batches of this rank, or None for no limit.
        repeat: if True, keep the pipeline for the next iteration.
        threads: threads that decode and resize, or None for the number of `decoding_threads`.
        prefetch: number of batches prepared in advance.
        gpu: device number, or None for the CPU.
        copy_outputs: True if training captures CUDA graphs, see `PipelineOptions`.
        rank, world_size: each rank yields every ``world_size``-th batch.
    """

    def __init__(
        self,
        shards: Shards,
        data: Data,
        *,
        rows: NDArray[np.int64] | None = None,
        cache: Cache | None = None,
        batch_size: int,
        max_batches: int | None = None,
        repeat: bool = False,
        threads: int | None = None,
        prefetch: int = 3,
        gpu: int | None = None,
        copy_outputs: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._shards, self._data, self._source, self._repeat = shards, data, cache or shards, repeat
        rows = np.arange(len(shards)) if rows is None else rows
        starts = range(rank * batch_size, len(rows), world_size * batch_size)[:max_batches]
        self._rows = [rows[start : start + batch_size] for start in starts]
        threads = threads or decoding_threads(gpu is not None)
        self._options = PipelineOptions(batch_size, threads, prefetch, gpu, copy_outputs)
        self._decoder = Decoder(threads, gpu, data.hw_decoder_load)
        self._kept: tuple[GraphPipeline, list[DamagedImages]] | None = None

    def __len__(self) -> int:
        """Return the number of batches of this rank."""
        return len(self._rows)

    def __iter__(self) -> Iterator[StreamBatch]:
        """Yield the batches of this rank.

        Raises:
            UnreadableImages: an image cannot be read. Leaving it out would change the accuracy.
            TrainingFailed: DALI failed for another reason.
        """
        if not self._rows:
            return
        # The pipeline is kept only after the last batch, because an abandoned iteration leaves it in between.
        (pipeline, damaged), self._kept = self._kept or self._pipeline(), None
        for rows in self._rows:
            yield StreamBatch(*self._tensors(pipeline, damaged, rows))
        if self._repeat:
            self._kept = pipeline, damaged

    def _pipeline(self) -> tuple[GraphPipeline, list[DamagedImages]]:
        """Return a new pipeline, and a list to which it adds the error that ends it."""
        damaged: list[DamagedImages] = []
        spec = GraphSpec.evaluation(self._data, self._source)

        def feed(iteration: int) -> list[Any]:
            if iteration >= len(self._rows) and not self._repeat:
                raise StopIteration
            rows = self._rows[iteration % len(self._rows)]
            stream = evaluation_stream(self._shards.index, rows, self._data)
            try:
                return spec.values(self._source, BatchPlan(stream, None, None))
            except DamagedImages as error:
                # The batches before this one are still yielded. They may belong to the previous iteration.
                damaged.append(error)
                raise StopIteration from None

        return graph.build(feed, spec, self._options), damaged

    def _tensors(
        self, pipeline: GraphPipeline, damaged: list[DamagedImages], rows: NDArray[np.int64]
    ) -> list[torch.Tensor]:
        """Return the next outputs of the pipeline, which belong to these rows.

        Raises:
            UnreadableImages: an image cannot be read.
            TrainingFailed: DALI failed for another reason.
        """
        folder = self._shards.folder.parent
        try:
            return pipeline.tensors()
        except StopIteration:
            raise UnreadableImages(f"{damaged[0]}. Convert {folder} again.") from None
        except BatchFailed as error:
            names = ", ".join(
                self._shards.name(row) for row in unreadable_rows(self._shards, rows, self._decoder)
            )
            if not names:
                raise
            raise UnreadableImages(
                f"{names} cannot be decoded ({error.reason}). Convert {folder} again."
            ) from None


def evaluation_batches(shards: Shards, data: Data, **options: Any) -> Iterator[StreamBatch]:
    """Yield every image of a split once. The options are those of `EvaluationLoader`."""
    return iter(EvaluationLoader(shards, data, **options))
