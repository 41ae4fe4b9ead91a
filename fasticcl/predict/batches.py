"""Batches of images for prediction, decoded and resized in threads and normalised by the DALI graph."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data.crops import evaluation_crop
from fasticcl.data.dali import graph
from fasticcl.data.dali.graph_inputs import GraphSpec
from fasticcl.data.dali.pipeline import PipelineOptions
from fasticcl.data.dali.resize import resized_square
from fasticcl.predict.inputs import ImageInput
from fasticcl.shards.images import MAX_PIXELS, UnreadableImage, decode

_PREFETCH = 2  # batches prepared ahead in the graph


@dataclass(frozen=True)
class ImageBatch:
    """A batch of network inputs."""

    names: list[str]
    errors: list[str | None]
    """Error message of each unreadable image, else None. The rows of x of these images are undefined."""
    x: torch.Tensor
    """[B, 3, S, S] float32 images, normalised, in channels_last memory format."""


@dataclass(frozen=True)
class _PendingBatch:
    """A batch whose images are being decoded by the thread pool."""

    names: list[str]
    squares: NDArray[np.uint8]
    """[B, S, S, 3] RGB. A square is valid once the future of its error is done."""
    errors: list[Future[str | None]]


def image_batches(
    images: Iterable[ImageInput], data: Data, *, batch_size: int, threads: int, gpu: int | None
) -> Iterator[ImageBatch]:
    """Yield images in batches, in their order, preprocessed as in evaluation.

    Images are decoded here and not in the graph, because DALI accepts damaged images that the converter
    rejects, and discards a whole batch because of one unreadable image. Each image is resized right after
    decoding, while its pixels are still in the CPU cache, with the function that the graph uses on a CPU.
    At most ``threads`` images are in memory at full size.

    Args:
        images: the encoded images.
        data: image size, evaluation resize and normalisation.
        batch_size: B. The last batch may be smaller.
        threads: number of threads that decode and resize.
        gpu: device number, or None for the CPU.
    """
    in_graph: deque[_PendingBatch] = deque()  # keeps the squares alive that the graph reads
    pool = ThreadPoolExecutor(threads, "decode")
    pending = _pending_batches(pool, images, data, batch_size)

    def feed(_: int) -> list[Any]:
        batch = next(pending)  # StopIteration ends the pipeline
        for error in reversed(batch.errors):  # from the last one, to block only once
            error.result()
        in_graph.append(batch)
        return [batch.squares, np.zeros(len(batch.names), np.int64)]

    options = PipelineOptions(batch_size, threads, _PREFETCH, gpu)
    pipeline = graph.build(feed, GraphSpec.prediction(data), options)
    try:
        while True:
            try:
                x, _ = pipeline.tensors()
            except StopIteration:
                return
            batch = in_graph.popleft()
            yield ImageBatch(batch.names, [error.result() for error in batch.errors], x)
    finally:
        # Do not wait: the garbage collector may close this generator in a thread that the pool waits for.
        pool.shutdown(wait=False, cancel_futures=True)


def _pending_batches(
    pool: ThreadPoolExecutor, images: Iterable[ImageInput], data: Data, batch_size: int
) -> Iterator[_PendingBatch]:
    """Yield batches. Each is yielded after the decoding of the next batch has been submitted."""
    remaining, previous = iter(images), None
    while batch := list(islice(remaining, batch_size)):
        squares = np.empty((len(batch), data.image_size, data.image_size, 3), np.uint8)
        errors = [
            pool.submit(_decode_into, square, image, data)
            for square, image in zip(squares, batch, strict=True)
        ]
        if previous:
            yield previous
        previous = _PendingBatch([image.name for image in batch], squares, errors)
    if previous:
        yield previous


def _decode_into(square: NDArray[np.uint8], image: ImageInput, data: Data) -> str | None:
    """Decode an image and resize it into a square [S, S, 3]. Return the error message, or None."""
    try:
        pixels = decode(image.read())
        _check_aspect_ratio(pixels, data)
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    height, width, _ = pixels.shape
    size, cut = evaluation_crop(height, width, data)
    square[:] = resized_square(pixels, size.tolist(), cut.tolist(), False, data.image_size)
    return None


def _check_aspect_ratio(pixels: NDArray[np.uint8], data: Data) -> None:
    """Reject a long strip that would exceed MAX_PIXELS after its short side is enlarged."""
    height, width, _ = pixels.shape
    short, long = sorted((height, width))
    if data.eval_resize**2 * long > MAX_PIXELS * short:
        raise UnreadableImage(f"the aspect ratio of {width}×{height} pixels is too extreme to resize")
