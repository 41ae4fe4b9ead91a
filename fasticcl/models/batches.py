"""Pictures as batches for a network: decoded ahead in threads, then through the graph of evaluation."""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fasticcl.config import Data
from fasticcl.data import graph
from fasticcl.data.images import MAX_PIXELS, UnreadableImage, decode
from fasticcl.data.loader import as_tensor, run_graph, stream_inputs
from fasticcl.data.plan import evaluation_stream
from fasticcl.models.pictures import Picture

_PREFETCH = 2  # batches in the graph; each holds its decoded pictures
_MOST_BYTES = 2**28  # of decoded pictures in a batch: photographs of a telephone are 36 MB each
_SIZES = np.dtype([("label", "<u4"), ("height", "<u4"), ("width", "<u4")])
_STAND_IN = np.zeros((1, 1, 3), np.uint8)  # keeps the place of a picture that cannot be read


@dataclass(frozen=True)
class PictureBatch:
    """Pictures as the network takes them."""

    names: list[str]
    errors: list[str | None]
    """Why a picture cannot be read; what x holds in its place means nothing."""
    x: torch.Tensor
    """[B, 3, S, S] float32 images, normalised, in channels_last memory format."""


@dataclass(frozen=True)
class _Decoded:
    name: str
    pixels: NDArray[np.uint8]
    """[height, width, 3] RGB."""
    error: str | None = None


def picture_batches(
    pictures: Iterable[Picture], data: Data, *, batch_size: int, threads: int, gpu: int | None
) -> Iterator[PictureBatch]:
    """Yield pictures in their order, fewer at a time where they are large or the last.

    About four batches are in memory, each of 256 MiB of decoded pictures at most, or one picture.

    Decoding is done here and not in the graph, with the converter's checks and the pixels that training
    sees: DALI reads on over damage that the converter refuses, and gives up a whole batch for one picture.

    Args:
        pictures: where they are.
        data: how the network takes them.
        batch_size: B at most.
        threads: threads that decode, and as many that resize.
        gpu: device number; None: the CPU.
    """
    fed: deque[list[_Decoded]] = deque()  # the graph reads the pixels from here
    with ThreadPoolExecutor(threads, "decode") as pool:
        decoded = _decoded_ahead(pool, pictures, data, batch_size)

        def feed(_: int) -> list[Any]:
            if not (batch := _next_batch(decoded, batch_size)):
                raise StopIteration
            fed.append(batch)
            sizes = np.array([(0, *each.pixels.shape[:2]) for each in batch], _SIZES)
            stream = evaluation_stream(sizes, np.arange(len(batch)), data)
            return stream_inputs([each.pixels for each in batch], stream, jitter=False, whole=True)

        pipeline = graph.build(
            feed,
            data,
            mixed=False,
            padded=False,
            jitter=False,
            batch_size=batch_size,
            threads=threads,
            prefetch=_PREFETCH,
            gpu=gpu,
            images="decoded",
            whole=True,
        )
        try:
            while True:
                try:
                    x, _ = map(as_tensor, run_graph(pipeline, gpu))
                except StopIteration:
                    return
                batch = fed.popleft()
                yield PictureBatch([each.name for each in batch], [each.error for each in batch], x)
        finally:
            pool.shutdown(cancel_futures=True)


def _next_batch(decoded: Iterator[_Decoded], batch_size: int) -> list[_Decoded]:
    batch, size = [], 0
    for each in decoded:
        batch.append(each)
        size += each.pixels.nbytes
        if len(batch) == batch_size or size >= _MOST_BYTES:
            break
    return batch


def _decoded_ahead(
    pool: ThreadPoolExecutor, pictures: Iterable[Picture], data: Data, batch_size: int
) -> Iterator[_Decoded]:
    """Yield pictures while the next ones are being decoded: a batch of such as the last one was."""
    waiting: deque[Future[_Decoded]] = deque()
    ahead = batch_size
    for picture in pictures:
        waiting.append(pool.submit(_decoded, picture, data))
        while len(waiting) > ahead:
            each = waiting.popleft().result()
            ahead = min(batch_size, _MOST_BYTES // each.pixels.nbytes)
            yield each
    while waiting:
        yield waiting.popleft().result()


def _decoded(picture: Picture, data: Data) -> _Decoded:
    try:
        pixels = decode(picture.read())
        _check_shape(pixels, data)
    except UnreadableImage as error:
        return _Decoded(picture.name, _STAND_IN, str(error))
    except OSError as error:
        return _Decoded(picture.name, _STAND_IN, error.strerror or str(error))
    return _Decoded(picture.name, pixels)


def _check_shape(pixels: NDArray[np.uint8], data: Data) -> None:
    """Refuse a strip of few pixels that would become one of billions when its short side is enlarged."""
    height, width, _ = pixels.shape
    short, long = sorted((height, width))
    if data.eval_resize**2 * long > MAX_PIXELS * short:
        raise UnreadableImage(f"{width}×{height} pixels are too long a strip")
