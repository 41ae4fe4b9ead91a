"""Pictures as batches for a network: made ahead in threads, as evaluation sees them, for the graph."""

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
from fasticcl.data import graph
from fasticcl.data.crops import evaluation_crop
from fasticcl.data.dali_pipeline import PipelineOptions
from fasticcl.data.graph_inputs import GraphSpec
from fasticcl.data.resize import resized_square
from fasticcl.predict.inputs import Picture
from fasticcl.shards.images import MAX_PIXELS, UnreadableImage, decode

_PREFETCH = 2  # batches in the graph


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as the network takes them."""

    names: list[str]
    errors: list[str | None]
    """Why a picture cannot be read; what x holds in its place means nothing."""
    x: torch.Tensor
    """[B, 3, S, S] float32 images, normalised, in channels_last memory format."""


@dataclass(frozen=True)
class _Started:
    """A batch that threads are at work on."""

    names: list[str]
    squares: NDArray[np.uint8]
    """[B, S, S, 3] RGB; each is there when its error is."""
    errors: list[Future[str | None]]


def picture_batches(
    pictures: Iterable[Picture], data: Data, *, batch_size: int, threads: int, gpu: int | None
) -> Iterator[PictureBatch]:
    """Yield pictures in their order.

    Decoding is done here and not in the graph, with the converter's checks and the pixels that training
    sees: DALI reads on over damage that the converter refuses, and gives up a whole batch for one picture.
    So is resizing, while the pixels are still in the core's cache, by the function that the graph calls on
    a CPU. As many pictures are in memory at their full size as there are threads.

    Args:
        pictures: where they are.
        data: how the network takes them.
        batch_size: B; the last batch may be smaller.
        threads: threads that decode and resize.
        gpu: device number; None: the CPU.
    """
    fed: deque[_Started] = deque()  # the graph reads the squares from here
    pool = ThreadPoolExecutor(threads, "decode")
    started = _started_ahead(pool, pictures, data, batch_size)

    def feed(_: int) -> list[Any]:
        batch = next(started)  # StopIteration ends the graph's work
        for error in reversed(batch.errors):  # the last first: one wait instead of one for each
            error.result()
        fed.append(batch)
        return [batch.squares, np.zeros(len(batch.names), np.int64)]

    options = PipelineOptions(batch_size, threads, _PREFETCH, gpu)
    pipeline = graph.build(feed, GraphSpec.prediction(data), options)
    try:
        while True:
            try:
                x, _ = pipeline.tensors()
            except StopIteration:
                return
            batch = fed.popleft()
            yield PictureBatch(batch.names, [error.result() for error in batch.errors], x)
    finally:
        # Not waited for: the garbage collector may close this in a thread that they wait for.
        pool.shutdown(wait=False, cancel_futures=True)


def _started_ahead(
    pool: ThreadPoolExecutor, pictures: Iterable[Picture], data: Data, batch_size: int
) -> Iterator[_Started]:
    """Yield batches, each when the next one has been started."""
    rest, before = iter(pictures), None
    while chosen := list(islice(rest, batch_size)):
        squares = np.empty((len(chosen), data.image_size, data.image_size, 3), np.uint8)
        errors = [
            pool.submit(_fill, square, picture, data) for square, picture in zip(squares, chosen, strict=True)
        ]
        if before:
            yield before
        before = _Started([picture.name for picture in chosen], squares, errors)
    if before:
        yield before


def _fill(square: NDArray[np.uint8], picture: Picture, data: Data) -> str | None:
    """Make a picture a square [S, S, 3] as evaluation sees it; return why it cannot be read, or None."""
    try:
        pixels = decode(picture.read())
        _check_shape(pixels, data)
    except UnreadableImage as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    height, width, _ = pixels.shape
    size, cut = evaluation_crop(height, width, data)
    square[:] = resized_square(pixels, size.tolist(), cut.tolist(), False, data.image_size)
    return None


def _check_shape(pixels: NDArray[np.uint8], data: Data) -> None:
    """Refuse a strip of few pixels that would become one of billions when its short side is enlarged."""
    height, width, _ = pixels.shape
    short, long = sorted((height, width))
    if data.eval_resize**2 * long > MAX_PIXELS * short:
        raise UnreadableImage(f"{width}×{height} pixels are too long a strip")
