"""Decode images outside of the graph, and find the images that cannot be decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from nvidia.dali import Pipeline, fn, types

from fasticcl.data.dali.errors import DALI_ERRORS, BatchFailed, explain
from fasticcl.errors import TrainingFailed

_CHUNK = 31
"""Largest number of images that are decoded together.

DALI 2.4 parses the headers of 32 or more images on several threads. A header that it cannot parse ends the
batch and frees memory that the other threads still use, which crashes the process.
"""
_MAX_REJECTED_BY_GPU = 8
"""Maximum number of images in a batch that only the GPU rejects. With more, the GPU is at fault."""


def decoder_options(gpu: int | None, hw_decoder_load: float) -> dict[str, Any]:
    """Return the options that all decoding operators share.

    Args:
        gpu: device number, or None for the CPU.
        hw_decoder_load: share of the images that the JPEG engine of a GPU decodes.
    """
    # The conversion stores every image upright. jpeg_fancy_upsampling and use_fast_idct stay off. A GPU then
    # repeats chroma samples that a CPU interpolates, which changes pixels by 0.3 to 1.5 of 256 levels on
    # average. With fancy upsampling, nvImageCodec 0.9 with nvJPEG 12.4 would decode regions on the CPU.
    shared = {"output_type": types.RGB, "adjust_orientation": False}
    if gpu is None:
        return {"device": "cpu", **shared}
    return {"device": "mixed", "hw_decoder_load": hw_decoder_load, **shared}


@dataclass(frozen=True)
class Decoder:
    """The decoder of the graph, for whole images."""

    threads: int
    """Threads that decode."""
    gpu: int | None = None
    """Device number, or None for the CPU."""
    hw_decoder_load: float = 0.0
    """Share of the images that the JPEG engine of a GPU decodes."""

    def batches(self, encoded: Sequence[NDArray[np.uint8]], size: int) -> Iterator[Any]:
        """Yield DALI batches of at most ``size`` decoded RGB images [height, width, 3].

        Raises:
            BatchFailed: DALI cannot decode the next batch, perhaps because of an image.
            TrainingFailed: memory, the GPU or a library is the cause.
        """
        try:
            yield from self._batches(encoded, size)
        except DALI_ERRORS as error:
            raise explain(error) from error

    def _batches(self, encoded: Sequence[NDArray[np.uint8]], size: int) -> Iterator[Any]:
        chunks = [encoded[first : first + size] for first in range(0, len(encoded), size)]
        pipeline = Pipeline(
            batch_size=size, num_threads=self.threads, device_id=self.gpu, prefetch_queue_depth=1
        )
        with pipeline:
            files = fn.external_source(source=iter(chunks), batch=True, dtype=types.UINT8, ndim=1)
            options = decoder_options(self.gpu, self.hw_decoder_load)
            pipeline.set_outputs(fn.decoders.image(files, **options))
        pipeline.build()
        for _ in chunks:
            yield pipeline.run()[0]


def decoded(encoded: Sequence[NDArray[np.uint8]], threads: int) -> list[NDArray[np.uint8]]:
    """Decode images [size] to RGB [height, width, 3], with the operator of the graph on a CPU.

    Raises:
        BatchFailed: an image cannot be decoded.
        TrainingFailed: memory or a library is the cause.
    """
    batches = Decoder(threads).batches(encoded, _CHUNK)
    return [np.array(batch.at(position)) for batch in batches for position in range(len(batch))]


def undecodable(encoded: Sequence[NDArray[np.uint8]], decoder: Decoder) -> list[int]:
    """Return the positions of the images [size] that cannot be decoded, in order.

    Images are decoded in chunks. A chunk that fails is split until the image is found.

    Raises:
        TrainingFailed: DALI failed for another reason.
    """
    everything = range(len(encoded))
    on_cpu = [*_search(encoded, everything, replace(decoder, gpu=None), _CHUNK)]
    if decoder.gpu is None:
        return on_cpu
    # The GPU decides, because it may accept other images. Its pipelines start slowly, so the images that the
    # CPU rejects are tried one by one, and the others are usually decoded by a single pipeline.
    rejected = [*_search(encoded, on_cpu, decoder, 1)]
    others = [position for position in everything if position not in on_cpu]
    only_by_gpu = [*islice(_search(encoded, others, decoder, _CHUNK), _MAX_REJECTED_BY_GPU + 1)]
    if len(only_by_gpu) > _MAX_REJECTED_BY_GPU:
        raise TrainingFailed(
            f"The GPU cannot decode more than {_MAX_REJECTED_BY_GPU} images of a batch that the CPU decodes. "
            "Run `fasticcl doctor`, and use --set data.hw_decoder_load=0 or --device cpu."
        )
    return sorted(rejected + only_by_gpu)


def _search(
    encoded: Sequence[NDArray[np.uint8]], positions: Sequence[int], decoder: Decoder, chunk: int
) -> Iterator[int]:
    """Yield the positions of images that cannot be decoded."""
    done = 0
    while done < len(positions):
        try:
            for batch in decoder.batches([encoded[position] for position in positions[done:]], chunk):
                done += len(batch)
        except BatchFailed:
            failed = positions[done : done + chunk]
        else:
            return
        done += len(failed)
        if len(failed) == 1:
            yield failed[0]
        else:
            yield from _search(encoded, failed, decoder, (len(failed) + 1) // 2)
